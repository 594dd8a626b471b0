"""What LyCORIS saves means the same here, and what is written here does the same in LyCORIS."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorax.base_model import BaseModel
from lorax.errors import Refused
from lorax.write import write_adapter
from tests.lorax.dialects.tiny_models import base_of, nudge, read

pytestmark = pytest.mark.slow

PRESET: dict[str, Any] = {"target_module": [], "target_name": [], "enable_conv": True, "lora_prefix": "lycoris"}
FILE = "bold.safetensors"
ALGORITHMS: dict[str, dict[str, Any]] = {
    "LoCon": {"algo": "lora"},
    "LoCon with a Tucker core": {"algo": "lora", "use_tucker": True},
    "LoCon, rank-stabilised": {"algo": "lora", "rs_lora": True},
    "LoHa": {"algo": "loha"},
    "LoHa with Tucker cores": {"algo": "loha", "use_tucker": True},
    "LoKr": {"algo": "lokr", "factor": 4},
    "LoKr, both low-rank": {"algo": "lokr", "factor": 8, "decompose_both": True},
    "LoKr, whole": {"algo": "lokr", "full_matrix": True, "factor": 4},
    "full": {"algo": "full"},
    "IA3": {"algo": "ia3"},
    "OFT": {"algo": "diag-oft"},
    "OFT with a bound and factors": {"algo": "diag-oft", "constraint": 1e-3, "rescaled": True},
    "DoRA by output": {"algo": "lora", "weight_decompose": True},
    "DoRA by input": {"algo": "lora", "weight_decompose": True, "wd_on_out": False},
    "DoRA of LoKr": {"algo": "lokr", "factor": 4, "weight_decompose": True},
    "with norms": {"algo": "lora", "train_norm": True},
}
TRAINED = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.proj_in",
    "mid_block.resnets.0.conv1",
    "mid_block.resnets.0.norm1",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
]


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(lycoris|torch)\b")
        yield
    from lycoris import LycorisNetwork

    LycorisNetwork.apply_preset(PRESET)


def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def small(model: nn.Module) -> BaseModel:
    return base_of("stable-diffusion", {"unet": model})


def network(model: nn.Module, *, prefix: str = "lora_unet", algo: str, **fields: Any) -> Any:
    """Returns a LyCORIS network of a few layers of each kind, changed as training would."""
    from lycoris import LycorisNetwork

    LycorisNetwork.apply_preset({**PRESET, "target_name": TRAINED, "lora_prefix": prefix})
    made = LycorisNetwork(
        model, lora_dim=3, conv_lora_dim=3, alpha=2, conv_alpha=2, network_module=algo, block_size=4, **fields
    )
    made.apply_to()
    nudge(made.named_parameters())
    return made


def trained_weights(made: Any, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parameters of the model that LyCORIS trained.

    Its merging multiplies LoHa and LoKr by alpha / rank twice (4.1.3), its forward pass, which is trained, does once.
    """
    after = dict(before)
    for module in made.loras:
        path = next(
            path for path in TRAINED if path.replace(".", "_") == re.sub("^(lora_unet|lycoris)_", "", module.lora_name)
        )
        if type(module).__name__ in {"LohaModule", "LokrModule"}:
            weight, bias = module.org_weight + module.get_weight(module.shape), None
            weight = module.apply_weight_decompose(weight) if module.wd else weight
        else:
            weight, bias = module.get_merged_weight(1, module.shape)
        after[f"{path}.weight"] = weight.detach()
        if bias is not None:
            after[f"{path}.bias"] = bias.detach()
    return after


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(adapter: Any, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    ours = {f"{site.path}.weight" for site in adapter.updates} | {site.path for site in adapter.vectors}
    assert ours >= changed
    for site, update in adapter.updates.items():
        name = f"{site.path}.weight"
        found = update.dense(before[name]) if update.needs_base else update.dense()
        assert torch.allclose(found, after[name] - before[name], rtol=1e-3, atol=1e-5), site
    for site, vector in adapter.vectors.items():
        assert torch.allclose(vector, after[site.path] - before[site.path], atol=1e-5), site


@pytest.mark.parametrize("fields", ALGORITHMS.values(), ids=ALGORITHMS)
def test_what_lycoris_saves_means_the_same_here(fields: dict[str, Any], tmp_path: Path) -> None:
    model = unet()
    before, base = state(model), small(model)
    made = network(model, **fields)
    made.save_weights(str(tmp_path / FILE), torch.float32, {"ss_network_module": "lycoris.kohya"})

    adapter = read(tmp_path, base, name=FILE)

    assert adapter.dialect == "lycoris"
    assert_same(adapter, before, trained_weights(made, before))


# A Tucker core is folded into its neighbour, so that it is not written again.
AS_THEY_WERE = {name: fields for name, fields in ALGORITHMS.items() if not fields.get("use_tucker")}


@pytest.mark.parametrize("fields", AS_THEY_WERE.values(), ids=AS_THEY_WERE)
def test_what_was_read_is_written_as_lycoris_wrote_it(fields: dict[str, Any], tmp_path: Path) -> None:
    model = unet()
    base = small(model)
    network(model, **fields).save_weights(str(tmp_path / FILE), torch.float32, {"ss_network_module": "lycoris.kohya"})
    adapter = read(tmp_path, base, name=FILE)

    [written] = write_adapter(adapter, tmp_path / "ours", dialect="lycoris", base=base, stem="bold", metadata={})

    theirs, ours = load_file(tmp_path / FILE), load_file(written)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        whole = name.endswith(".alpha") and f"{name.removesuffix('alpha')}lokr_w2" in ours
        alike = torch.allclose(tensor.float(), theirs[name].float().reshape(tensor.shape), atol=1e-6)
        # Where both factors are whole alpha means nothing.
        assert whole or alike, name


@pytest.mark.parametrize("name", sorted(ALGORITHMS.keys() - AS_THEY_WERE.keys()))
def test_a_core_that_was_folded_means_the_same_when_it_is_read_again(name: str, tmp_path: Path) -> None:
    model = unet()
    base = small(model)
    network(model, **ALGORITHMS[name]).save_weights(
        str(tmp_path / FILE), torch.float32, {"ss_network_module": "lycoris.kohya"}
    )
    adapter = read(tmp_path, base, name=FILE)

    write_adapter(adapter, tmp_path / "ours", dialect="lycoris", base=base, stem="bold", metadata={})

    again = read(tmp_path / "ours", base, name="bold.safetensors")
    assert again.updates.keys() == adapter.updates.keys()
    for site, update in adapter.updates.items():
        assert torch.allclose(again.updates[site].dense(), update.dense(), rtol=1e-4, atol=1e-6), site


# The others' loader in LyCORIS 4.1.3 fails or takes DoRA by input for DoRA by output.
LOADABLE = {name: fields for name, fields in ALGORITHMS.items() if name not in {"IA3", "DoRA by input"}}


@pytest.mark.parametrize("fields", LOADABLE.values(), ids=LOADABLE)
def test_what_is_written_does_the_same_in_lycoris(fields: dict[str, Any], tmp_path: Path) -> None:
    from lycoris import create_lycoris_from_weights

    model = unet()
    before, base = state(model), small(model)
    made = network(model, **fields)
    made.save_weights(str(tmp_path / FILE), torch.float32, {})
    adapter = read(tmp_path, base, name=FILE)
    [written] = write_adapter(adapter, tmp_path / "ours", dialect="lycoris", base=base, stem="bold", metadata={})

    theirs, _ = create_lycoris_from_weights(1.0, str(written), unet())

    assert len(theirs.loras) == len(made.loras)
    wanted, found = trained_weights(made, before), trained_weights(theirs, before)
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-5), name


def test_its_own_prefix_is_read(tmp_path: Path) -> None:
    model = unet()
    before, base = state(model), small(model)
    made = network(model, prefix="lycoris", algo="lora")
    made.save_weights(str(tmp_path / FILE), torch.float32, {})

    assert_same(read(tmp_path, base, name=FILE), before, trained_weights(made, before))


@pytest.mark.parametrize(("algo", "named"), [("glora", "glora"), ("tlora", "t_lora")])
def test_what_cannot_be_moved_is_refused_by_name(algo: str, named: str, tmp_path: Path) -> None:
    model = unet()
    network(model, algo=algo).save_weights(str(tmp_path / FILE), torch.float32, {})

    with pytest.raises(Refused, match=named) as raised:
        read(tmp_path, small(model), name=FILE)

    assert raised.value.reason == "unsupported-algorithm"
