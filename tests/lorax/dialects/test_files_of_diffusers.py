"""What diffusers saves means the same here, and its loaders find in written files every layer with its change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.dialects import DIALECTS
from lorax.write import write_adapter
from tests.lorax.dialects.tiny_models import assert_same_changes, base_of, layer_changes, nudge, read

pytestmark = pytest.mark.slow
Models = Mapping[str, nn.Module]


def clip(width: int, *, projection: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=width,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def unet_of_xl() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=24,
    )


def flux_transformer() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
    )


def wan_transformer() -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=10,
        freq_dim=8,
        ffn_dim=20,
        num_layers=2,
    )


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=20, d_model=16, d_kv=64, d_ff=20, num_layers=1, num_heads=1, feed_forward_proj="gated-gelu")
    )


def load_xl(file: Path, models: Models) -> None:
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Loader

    unet: Any = models["unet"]
    state, alphas, metadata = Loader.lora_state_dict(
        str(file.parent),
        weight_name=file.name,
        unet_config=unet.config,
        return_lora_metadata=True,
        local_files_only=True,
    )
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
    for name in ("text_encoder", "text_encoder_2"):
        Loader.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=models[name], prefix=name, metadata=metadata
        )


def load_flux(file: Path, models: Models) -> None:
    from diffusers.loaders import FluxLoraLoaderMixin as Loader

    state, alphas, metadata = flux_state(file)
    parts = {
        start: {name: tensor for name, tensor in state.items() if name.startswith(f"{start}.")}
        for start in ("transformer", "text_encoder")
    }
    transformer = models["transformer"]
    Loader.load_lora_into_transformer(
        parts["transformer"], network_alphas=alphas, transformer=transformer, metadata=metadata
    )
    if encoder := parts["text_encoder"]:
        Loader.load_lora_into_text_encoder(
            encoder, network_alphas=alphas, text_encoder=models["text_encoder"], metadata=metadata
        )


def flux_state(file: Path) -> tuple[dict[str, Tensor], Any, Any]:
    from diffusers.loaders import FluxLoraLoaderMixin as Loader

    found: tuple[dict[str, Tensor], Any, Any] = Loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_alphas=True, return_lora_metadata=True, local_files_only=True
    )
    return found


def load_wan(file: Path, models: Models) -> None:
    from diffusers.loaders import WanLoraLoaderMixin as Loader

    state, metadata = Loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True, local_files_only=True
    )
    Loader.load_lora_into_transformer(state, transformer=models["transformer"], metadata=metadata)


@dataclass(frozen=True)
class Pipeline:
    """The models of a tiny pipeline, its family, its loader, and what the loader does not know."""

    family: str
    make: Callable[[], Models]
    load: Callable[[Path, Models], None]
    unknown: tuple[str, ...] = ()

    def adapted(self, base: BaseModel, dialect: str, *, ranks: Sequence[int]) -> Adapter:
        """Returns an adapter on every site that both the dialect and the loader have a word for."""
        spoken = {part.site for _, module in DIALECTS[dialect].modules(base) for part in module.parts}
        sites = [site for site in base.sites if site in spoken and not str(site).startswith(self.unknown)]
        if (self.family, dialect) == ("flux", "onetrainer"):
            # Of the blocks, diffusers' converter for OneTrainer's names knows the attention alone.
            sites = [site for site in sites if ".attn." in site.path or site.component != "transformer"]
        return random_adapter(base, sites, ranks=ranks)


def random_adapter(base: BaseModel, sites: Sequence[Site], *, ranks: Sequence[int] = (2,)) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    updates = {}
    for number, site in enumerate(sites):
        shape, rank = base.sites[site], ranks[number % len(ranks)]
        up = torch.randn(shape.out_features, rank, generator=generator)
        down = torch.randn(rank, shape.columns, generator=generator)
        updates[site] = LowRank(up, down, 0.5, shape.kernel)
    verdict = BaseVerdict(base.name, base.family, base.version)
    return Adapter(updates, "kohya", ("lora",), torch.float32, {}, (), verdict, "0" * 64)


PIPELINES = {
    "xl": Pipeline(
        "stable-diffusion-xl",
        lambda: {"unet": unet_of_xl(), "text_encoder": clip(16), "text_encoder_2": clip(20, projection=True)},
        load_xl,
        ("unet:conv_", "unet:time_", "unet:add_", "text_encoder_2:text_projection"),
    ),
    "flux": Pipeline(
        "flux",
        lambda: {"transformer": flux_transformer(), "text_encoder": clip(16), "text_encoder_2": t5()},
        load_flux,
        ("transformer:context", "transformer:x_", "transformer:time", "transformer:norm_out", "transformer:proj_out",
         "text_encoder_2:"),
    ),
    "wan": Pipeline("wan", lambda: {"transformer": wan_transformer()}, load_wan, (
        "transformer:patch", "transformer:condition", "transformer:proj_out",
    )),
}  # fmt: skip
# diffusers takes one alpha for all where it reads sd-scripts' names: there all ranks are equal.
LOADED = [
    ("xl", "diffusers", (2, 3)),
    ("xl", "diffusers_old", (2,)),
    ("xl", "kohya", (2,)),
    ("xl", "lycoris", (2,)),
    ("xl", "onetrainer", (2,)),
    ("xl", "ai_toolkit", (2,)),
    ("flux", "diffusers", (2, 3)),
    ("flux", "ai_toolkit", (2, 3)),
    ("flux", "onetrainer", (2,)),
    ("flux", "xlabs", (2, 3)),
    ("wan", "diffusers", (2, 3)),
    ("wan", "ai_toolkit", (2, 3)),
    ("wan", "comfyui", (2, 3)),
    ("wan", "musubi", (2,)),
]


@pytest.fixture(autouse=True)
def _nothing_is_left_over(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Holds diffusers to silence: it only logs that it found no keys or does not know some."""
    logger = logging.getLogger("diffusers")
    propagated, logger.propagate = logger.propagate, True
    yield
    logger.propagate = propagated
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [message for message in said if "keys" in message]


@pytest.mark.parametrize(("name", "dialect", "ranks"), LOADED, ids=str)
def test_a_written_file_changes_every_layer_alike(
    name: str, dialect: str, ranks: Sequence[int], tmp_path: Path
) -> None:
    pipeline = PIPELINES[name]
    models = pipeline.make()
    base = base_of(pipeline.family, models)
    adapter = pipeline.adapted(base, dialect, ranks=ranks)
    file = write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})[0]

    pipeline.load(file, models)

    changes: dict[Site, Tensor] = {}
    for component, model in models.items():
        changes |= layer_changes(model, component)
    assert_same_changes(adapter, changes)


@pytest.mark.parametrize("dialect", ["kohya", "xlabs"])
def test_a_file_for_flux_in_its_true_size_converts_to_the_same_factors(dialect: str, tmp_path: Path) -> None:
    # diffusers' converter knows the widths of Flux by heart, so no tiny model goes through it.
    base = next(base for base in known_bases() if base.name == "flux1-dev")
    spoken = {part.site for _, module in DIALECTS[dialect].modules(base) for part in module.parts}
    blocks = ("transformer:transformer_blocks.3.", "transformer:single_transformer_blocks.3.")
    sites = [site for site in base.sites if str(site).startswith(blocks) and site in spoken]
    adapter = random_adapter(base, sites)
    file = write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})[0]

    state, _, _ = flux_state(file)

    for site, update in adapter.low_rank().items():
        name = f"transformer.{site.path}"
        down, up = state.pop(f"{name}.lora_A.weight"), state.pop(f"{name}.lora_B.weight")
        assert torch.allclose(up @ (down @ down.mT) @ up.mT[:, :8], gram(update)[:, :8], rtol=1e-3, atol=0.1), site
        assert torch.allclose(up @ down[:, :8], update.scale * update.up @ update.down[:, :8], atol=1e-4), site
    assert not state


def gram(update: LowRank) -> Tensor:
    return update.scale**2 * update.up @ (update.down @ update.down.mT) @ update.up.mT


@pytest.mark.parametrize("name", PIPELINES)
def test_what_diffusers_saves_means_the_same_here(name: str, tmp_path: Path) -> None:
    models, pipeline = PIPELINES[name].make(), PIPELINES[name]
    base = base_of(pipeline.family, models)
    changes = add_adapters(models)
    save(models, tmp_path, name)

    adapter = read(tmp_path, base, name="pytorch_lora_weights.safetensors")

    assert adapter.dialect == "diffusers"
    assert_same_changes(adapter, changes)


def test_dora_of_diffusers_means_the_same_here(tmp_path: Path) -> None:
    models = {"transformer": flux_transformer(), "text_encoder": clip(16), "text_encoder_2": t5()}
    weights = {
        Site("transformer", path.removesuffix(".weight")): tensor.clone()
        for path, tensor in models["transformer"].state_dict().items()
    }
    base = base_of("flux", models)
    add_adapters({"transformer": models["transformer"]}, use_dora=True)
    save({"transformer": models["transformer"]}, tmp_path, "flux")

    adapter = read(tmp_path, base, name="pytorch_lora_weights.safetensors")

    again = write_adapter(adapter, tmp_path / "ours", dialect="diffusers", base=base, stem="bold", metadata={})[0]
    load_flux(again, {"transformer": (model := flux_transformer())})
    theirs, ours = dora_weights(models["transformer"]), dora_weights(model)
    assert theirs.keys() == ours.keys() == adapter.updates.keys()
    for site, update in adapter.updates.items():
        down, up, magnitude, scale = theirs[site]
        moved = weights[site] + scale * up @ down
        wanted = magnitude[:, None] / moved.norm(dim=1, keepdim=True) * moved - weights[site]
        assert torch.allclose(update.dense(weights[site]), wanted, atol=1e-5)
        assert all(torch.equal(*pair) for pair in zip(theirs[site][:3], ours[site][:3], strict=True))
        assert ours[site][3] == scale


def dora_weights(model: nn.Module) -> dict[Site, Any]:
    from peft.tuners.lora import LoraLayer

    found: dict[Site, Any] = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and len(module.lora_A):
            (name,) = module.lora_A.keys()
            parts = (module.lora_A[name].weight, module.lora_B[name].weight, module.lora_magnitude_vector[name].weight)
            found[Site("transformer", path)] = (*(part.detach() for part in parts), module.scaling[name])
    return found


def add_adapters(models: Models, **fields: Any) -> dict[Site, Tensor]:
    """Gives each model an adapter as peft makes it, changes it, and returns what it does."""
    from peft import LoraConfig, get_peft_model

    changes: dict[Site, Tensor] = {}
    for component, model in models.items():
        targets = ["to_q", "to_k", "proj_out", "ff.net.2", "ffn.net.2", "q_proj", "fc1"]
        pattern = {"q_proj" if component.startswith("text") else "to_k": 2}
        config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, alpha_pattern=pattern, **fields)
        if component == "text_encoder_2" and not hasattr(model, "text_model"):
            continue  # diffusers saves no adapter of T5
        adaptable: Any = model
        adaptable.add_adapter(config) if hasattr(model, "add_adapter") else get_peft_model(adaptable, config)
        nudge((name, parameter) for name, parameter in model.named_parameters() if "lora_" in name)
        if not fields:
            changes |= layer_changes(model, component)
    return changes


def save(models: Models, folder: Path, name: str) -> None:
    import diffusers
    from peft.utils import get_peft_model_state_dict

    pipelines = {"xl": "StableDiffusionXLPipeline", "flux": "FluxPipeline", "wan": "WanPipeline"}
    arguments: dict[str, Any] = {}
    for component, model in models.items():
        adapted: Any = model
        if hasattr(adapted, "peft_config"):
            arguments[f"{component}_lora_layers"] = get_peft_model_state_dict(adapted)
            arguments[f"{component}_lora_adapter_metadata"] = adapted.peft_config["default"].to_dict()
    getattr(diffusers, pipelines[name]).save_lora_weights(str(folder), **arguments)


def test_a_file_survives_being_loaded_and_saved_by_diffusers(tmp_path: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    models = {"transformer": wan_transformer()}
    base = base_of("wan", models)
    adapter = PIPELINES["wan"].adapted(base, "diffusers", ranks=(2, 4))
    file = write_adapter(adapter, tmp_path / "ours", dialect="diffusers", base=base, stem="bold", metadata={})[0]
    load_wan(file, models)
    model: Any = models["transformer"]
    (name,) = model.peft_config
    model_state = get_peft_model_state_dict(model, adapter_name=name)
    import diffusers

    diffusers.WanPipeline.save_lora_weights(
        str(tmp_path / "theirs"),
        transformer_lora_layers=model_state,
        transformer_lora_adapter_metadata=model.peft_config[name].to_dict(),
    )

    again = read(tmp_path / "theirs", base, name="pytorch_lora_weights.safetensors")

    assert_same_changes(again, {site: update.dense() for site, update in adapter.updates.items()})
    assert replace(again, updates={}).algorithms == ("lora",)
