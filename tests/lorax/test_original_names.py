"""Transformers under their makers' names: found among the known bases, and taken apart where they are fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as converters
from torch import Tensor

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import FAMILIES, known_bases
from lorax.checkpoint import _version, open_checkpoint
from lorax.errors import Stop
from lorax.inventory import Parameter, take_inventory
from lorax.one_file import recognise
from lorax.safe_header import TensorEntry
from lorax.stored import Plain, Stored
from lorax.weight_file import Identity, WeightFile, write_weight_file
from tests.stand_ins.original_files import PREFIX, expect_same, original_tensors

Converter = Callable[[dict[str, Tensor]], dict[str, Tensor]]
SMALL: dict[str, tuple[Any, dict[str, Any], str, Converter | None]] = {
    "flux": (
        diffusers.FluxTransformer2DModel,
        {"in_channels": 8, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 8, "num_attention_heads": 3,
         "joint_attention_dim": 16, "pooled_projection_dim": 12, "guidance_embeds": True, "axes_dims_rope": [2, 2, 4]},
        "original",
        None,
    ),
    "stable-diffusion-3": (
        diffusers.SD3Transformer2DModel,
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 3, "attention_head_dim": 8,
         "num_attention_heads": 3, "caption_projection_dim": 24, "joint_attention_dim": 16, "out_channels": 4,
         "pooled_projection_dim": 12, "pos_embed_max_size": 8},
        "original",
        None,
    ),
    "wan": (
        diffusers.WanTransformer3DModel,
        {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
         "out_channels": 4, "text_dim": 16, "freq_dim": 8, "ffn_dim": 32, "num_layers": 2},
        "original",
        converters.convert_wan_transformer_to_diffusers,
    ),
    "hunyuan-video": (
        diffusers.HunyuanVideoTransformer3DModel,
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 2,
         "num_single_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 16, "pooled_projection_dim": 8,
         "guidance_embeds": True, "rope_axes_dim": (2, 4, 4)},
        "original",
        None,
    ),
    "lumina2": (
        diffusers.Lumina2Transformer2DModel,
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1,
         "num_attention_heads": 3, "num_kv_heads": 1, "axes_dim_rope": (4, 2, 2), "cap_feat_dim": 16},
        "original",
        None,
    ),
    "ltx-video": (
        diffusers.LTXVideoTransformer3DModel,
        {"in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8,
         "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 16},
        "original",
        converters.convert_ltx_transformer_checkpoint_to_diffusers,
    ),
    "qwen-image": (
        diffusers.QwenImageTransformer2DModel,
        {"in_channels": 8, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 3,
         "joint_attention_dim": 16, "axes_dims_rope": (2, 2, 4)},
        "own",
        None,
    ),
}  # fmt: skip


def small_transformer(family: str, folder: Path) -> dict[str, Tensor]:
    kind, options, _, _ = SMALL[family]
    torch.manual_seed(0)
    model = kind(**options).half()
    model.save_pretrained(folder / "transformer")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def original_of(family: str, state: Mapping[str, Tensor], base: BaseModel, prefix: str) -> dict[str, Tensor]:
    naming = SMALL[family][2]
    modules = [each for each in FAMILIES[family].namings[naming](base) if each.component == "transformer"]
    leaf = "scale" if family == "flux" else "weight"
    found = original_tensors(state, modules, prefix=prefix, norm_leaf=leaf)
    if family != "wan":
        return found
    in_blocks = {name: name.replace("scale_shift_table", "modulation") for name in found if ".blocks." in f".{name}"}
    return {
        in_blocks.get(name, name.replace("scale_shift_table", "head.modulation")): each for name, each in found.items()
    }


@pytest.mark.parametrize("prefix", [PREFIX, ""])
@pytest.mark.parametrize("family", SMALL)
def test_a_transformer_of_any_size_is_the_same_from_its_makers_file(family: str, prefix: str, tmp_path: Path) -> None:
    state = small_transformer(family, tmp_path / "folder")
    base = open_checkpoint(tmp_path / "folder", name="folder").base
    original = original_of(family, state, base, prefix)
    write_weight_file(tmp_path / "file.safetensors", original)

    expect_same(tmp_path / "folder", tmp_path / "file.safetensors")

    convert = SMALL[family][3]
    if convert is not None:
        converted = convert(dict(original))
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


NOWHERE = WeightFile(Path("nowhere"), {}, {}, 8, Identity(0, 0, 0, 0))


def described(name: str, shape: tuple[int, ...], start: int = 8) -> Stored:
    """Returns a tensor that is known by its header alone."""
    size = 2
    for each in shape:
        size *= each
    return Plain(NOWHERE, TensorEntry(name, "F16", shape, start, start + size))


def described_original(base: BaseModel, naming: str) -> dict[str, Stored]:
    """Returns the denoiser of a known base under another naming, as a header describes it."""
    denoiser = next(iter(base.sites)).component
    family = FAMILIES[base.family]
    found: dict[str, Stored] = {}
    covered: set[Site] = set()
    lists = {**family.program_namings, **family.namings}
    for each in (naming, "own"):
        for module in lists[each](base):
            if (
                module.component == denoiser
                and module.shape is not None
                and not covered & {p.site for p in module.parts}
            ):
                covered |= {part.site for part in module.parts}
                found[f"{module.path}.weight"] = described(module.path, module.shape.weight_shape)
    return found


CASES = [
    (base, naming)
    for base in known_bases()
    for naming in (*FAMILIES[base.family].namings, *FAMILIES[base.family].program_namings)
    if next(iter(base.sites)).component in {"unet", "transformer"} and naming != "original-2"
]


@pytest.mark.parametrize(("base", "naming"), CASES, ids=[f"{base.name} {naming}" for base, naming in CASES])
def test_every_known_base_is_recognised_by_the_names_and_shapes_of_its_denoiser(base: BaseModel, naming: str) -> None:
    names = described_original(base, naming)
    denoiser = next(iter(base.sites)).component

    family, placed = recognise({PREFIX + name: each for name, each in names.items()}, where="somewhere")

    found = take_inventory({part: [Parameter(p, s.shape) for p, s in each.items()] for part, each in placed.items()})
    expected = {site: shape for site, shape in base.sites.items() if site.component == denoiser}
    tables = {site for site in base.tables if site.component == denoiser}
    assert {site: shape for site, shape in found.sites.items() if site not in tables} == expected
    version = _version(FAMILIES[base.family], take_inventory({
        denoiser: [Parameter(f"{site.path}.weight", shape.weight_shape) for site, shape in expected.items()]
    }))  # fmt: skip
    assert family.name == base.family
    twins = {known.version for known in family.versions() if _sites(known, denoiser) == expected}
    assert version in twins
    assert base.version in twins


def _sites(base: BaseModel, component: str) -> dict[Site, Any]:
    return {site: shape for site, shape in base.sites.items() if site.component == component}


def test_chroma_looks_like_flux_and_is_none(tmp_path: Path) -> None:
    flux = next(base for base in known_bases() if base.name == "flux1-schnell")
    names = described_original(flux, "original")
    chroma = {name: each for name, each in names.items() if ".lin." not in name and "_in." not in name}
    numbers = count()
    for _ in range(20):
        name = f"distilled_guidance_layer.layers.{next(numbers)}.in_layer.weight"
        chroma[name] = described(name, (5120, 5120))

    with pytest.raises(Stop, match="no known family"):
        recognise(chroma, where="somewhere")


def test_a_fused_weight_of_other_proportions_is_never_cut_by_guess(tmp_path: Path) -> None:
    flux = next(base for base in known_bases() if base.name == "flux1-dev")
    names = described_original(flux, "original")
    names["single_blocks.3.linear1.weight"] = described("x", (21503, 3072))

    with pytest.raises(Stop, match=r"single_blocks\.3\.linear1\.weight.*holds several weights"):
        recognise(names, where="somewhere")


def test_a_fused_weight_that_is_quantised_gives_each_site_its_rows(tmp_path: Path) -> None:
    state = small_transformer("flux", tmp_path / "folder")
    plain = open_checkpoint(tmp_path / "folder", name="folder")
    original = original_of("flux", state, plain.base, PREFIX)
    worth: dict[str, Tensor] = {}
    for name in [name for name in original if name.endswith(("qkv.weight", "linear1.weight"))]:
        weight = original.pop(name).float()
        scale = weight.abs().amax(dim=1)
        numbers = (weight * 127 / scale[:, None]).round().to(torch.int8)
        module = name.removesuffix(".weight")
        original |= {name: numbers, f"{module}.SCB": scale}
        worth[module.removeprefix(PREFIX)] = numbers.float() * scale[:, None] / 127
    write_weight_file(tmp_path / "file.safetensors", original)

    found = open_checkpoint(tmp_path / "file.safetensors", name="file")

    assert found.base.sites == plain.base.sites
    assert found.base.fingerprint != plain.base.fingerprint
    fused = worth["single_blocks.1.linear1"]
    for number, part in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
        weight = found.weight(Site("transformer", f"single_transformer_blocks.1.{part}"))
        assert torch.allclose(weight, fused[24 * number : 24 * (number + 1)])
    added = found.weight(Site("transformer", "transformer_blocks.0.attn.add_k_proj"))
    assert torch.allclose(added, worth["double_blocks.0.txt_attn.qkv"][24:48])
    again = open_checkpoint(tmp_path / "file.safetensors", name="again")
    assert again.base.fingerprint == found.base.fingerprint
