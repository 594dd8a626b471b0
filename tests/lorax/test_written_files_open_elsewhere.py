"""What lorax writes does the same in peft and in diffusers: they are the oracles here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, Site
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter, same_updates, small_base

BASE = small_base("small-v2", labels=["examples/small-v2"])
pytestmark = pytest.mark.slow


@pytest.fixture
def unet() -> nn.Module:
    """Gives a model of diffusers whose modules are those of the small base."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )


@pytest.fixture
def text_encoder() -> nn.Module:
    """Gives a model of transformers whose modules are those of the small base."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=20,
            hidden_size=12,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def deltas(model: nn.Module, component: str) -> dict[Site, Tensor]:
    """Gives what each injected LoRA layer adds to its weight, as peft computes it."""
    from peft.tuners.lora import LoraLayer

    found: dict[Site, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.lora_A.keys()
            path = name.removeprefix("base_model.model.")
            if component == "text_encoder" and not path.startswith("text_model."):
                path = f"text_model.{path}"
            found[Site(component, path)] = module.get_delta_weight(adapter).detach()
    return found


def assert_same(found: Mapping[Site, Tensor], adapter: Adapter, component: str) -> None:
    expected = {site: update.dense() for site, update in adapter.updates.items() if site.component == component}
    assert expected
    assert found.keys() == expected.keys()
    for site, delta in expected.items():
        assert torch.allclose(found[site], delta, rtol=1e-4, atol=1e-5), site


def test_peft_opens_a_folder_of_mixed_ranks_and_scales(unet: nn.Module, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = random_adapter(BASE, match="unet")
    write_adapter(adapter, tmp_path, dialect="peft", base=BASE, stem="bold", metadata={})

    with warnings.catch_warnings(action="error"):  # peft warns of keys that it misses or does not expect
        model = PeftModel.from_pretrained(unet, str(tmp_path))

    assert_same(deltas(model, "unet"), adapter, "unet")


def test_peft_opens_a_text_encoder(text_encoder: nn.Module, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = random_adapter(BASE, match="text_encoder")
    write_adapter(adapter, tmp_path, dialect="peft", base=BASE, stem="bold", metadata={})

    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # among the two libraries
        model = PeftModel.from_pretrained(text_encoder, str(tmp_path))

    assert_same(deltas(model, "text_encoder"), adapter, "text_encoder")


@pytest.mark.parametrize("stabilised", [False, True])
def test_what_peft_writes_means_the_same_here(stabilised: bool, unet: Any, tmp_path: Path) -> None:  # noqa: FBT001
    from peft import LoraConfig, get_peft_model

    patterns: dict[str, Any] = {
        "rank_pattern": {"attn2.to_k": 4, r"^mid_block.*to_out\.0": 6},
        "alpha_pattern": {"to_k": 3},
    }
    config = LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["to_q", "to_k", "to_out.0", "conv1", "proj_in"],
        use_rslora=stabilised,
        init_lora_weights=False,
        **({} if stabilised else patterns),
    )
    model = get_peft_model(unet, config)
    with warnings.catch_warnings(action="ignore"):
        model.save_pretrained(str(tmp_path))

    files = AdapterFiles(tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json")
    adapter = read_adapter(files, candidates=[BASE])

    assert_same(deltas(model, "unet"), adapter, "unet")
    assert adapter.ranks() == ((2,) if stabilised else (2, 4, 6))


def load_into(unet: Any, text_encoder: Any, file: Path) -> None:
    """Loads a LoRA file into both models as a pipeline of diffusers does."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    state, alphas, metadata = Loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True, local_files_only=True
    )
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
    Loader.load_lora_into_text_encoder(state, network_alphas=alphas, text_encoder=text_encoder, metadata=metadata)


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_diffusers_opens_a_file(dialect: str, unet: nn.Module, text_encoder: nn.Module, tmp_path: Path) -> None:
    # Of a kohya file diffusers takes one strength for all modules: it looks the others up under names of its own past.
    kinds = {"ranks": (4,), "scales": (0.25,)} if dialect == "kohya" else {}
    adapter = random_adapter(BASE, **kinds)
    path = write_adapter(adapter, tmp_path, dialect=dialect, base=BASE, stem="bold", metadata={})[0]

    load_into(unet, text_encoder, path)

    assert_same(deltas(unet, "unet"), adapter, "unet")
    assert_same(deltas(text_encoder, "text_encoder"), adapter, "text_encoder")


def test_what_diffusers_writes_means_the_same_here(unet: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "conv2"], alpha_pattern={"attn1.to_q": 1})
    config.init_lora_weights = False
    unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )

    adapter = read_adapter(AdapterFiles(tmp_path / "pytorch_lora_weights.safetensors"), candidates=[BASE])

    assert_same(deltas(unet, "unet"), adapter, "unet")


def test_a_file_survives_being_loaded_and_saved_by_diffusers(unet: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    adapter = random_adapter(BASE, match="unet", ranks=(4,), scales=(0.5,))
    path = write_adapter(adapter, tmp_path / "ours", dialect="diffusers", base=BASE, stem="bold", metadata={})[0]
    unet.load_lora_adapter(str(path.parent), weight_name=path.name, prefix="unet")
    StableDiffusionPipeline.save_lora_weights(
        str(tmp_path / "theirs"),
        unet_lora_layers=get_peft_model_state_dict(unet, adapter_name="default_0"),
        unet_lora_adapter_metadata=unet.peft_config["default_0"].to_dict(),
    )

    again = read_adapter(AdapterFiles(tmp_path / "theirs/pytorch_lora_weights.safetensors"), candidates=[BASE])

    assert same_updates(again.updates, adapter.updates)
