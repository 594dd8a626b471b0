"""One file under its makers' names is the base that its folder is: same sites, same weights, same fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as converters
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import FAMILIES, known_bases
from lorax.checkpoint import _version, open_checkpoint
from lorax.errors import Stop
from lorax.inventories.sgm import sgm_names
from lorax.inventory import Parameter, take_inventory
from lorax.naming import NamedModule
from lorax.one_file import recognise
from lorax.safe_header import TensorEntry
from lorax.stored import Plain, Stored
from lorax.weight_file import Identity, WeightFile, open_weight_file, write_weight_file
from tests.stand_ins.adapter_files import SMALL_UNET, small_base, write_base_folder
from tests.stand_ins.original_files import openclip_tensors, original_tensors
from tests.stand_ins.tiny_bases import make_base

PREFIX = "model.diffusion_model."


def tensors_of(path: Path) -> dict[str, Tensor]:
    file = open_weight_file(path)
    return {name: file.read(name) for name in file.tensors}


def unet_names(base: BaseModel) -> list[NamedModule]:
    return [module for module in sgm_names(base) if module.component == "unet"]


def compvis_file(folder: Path, path: Path) -> Path:
    """Writes a folder of the shape of Stable Diffusion 1 as one file, with what such files hold besides."""
    base = open_checkpoint(folder, name="folder").base
    unet = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    text = tensors_of(folder / "text_encoder" / "model.safetensors")
    tensors = original_tensors(unet, unet_names(base), prefix=PREFIX)
    for name, tensor in text.items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    tensors |= {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
        "first_stage_model.encoder.conv_in.weight": torch.randn(4, 3, 3, 3),
        "model_ema.diffusion_modelinput_blocks00weight": torch.randn(4),
        "betas": torch.rand(10),
        "alphas_cumprod": torch.rand(10),
    }
    write_weight_file(path, tensors)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline of diffusers and the same as one file."""
    place = tmp_path_factory.mktemp("one-file")
    folder = make_base(place / "tiny", seed=0)
    return folder, compvis_file(folder, place / "tiny.safetensors")


def expect_same(one: Path, other: Path) -> None:
    first, second = open_checkpoint(one, name="first"), open_checkpoint(other, name="second")
    assert first.base.family == second.base.family
    assert first.base.sites == second.base.sites
    assert first.base.tables == second.base.tables
    assert first.base.vectors == second.base.vectors
    assert first.base.parameters == second.base.parameters
    for site in (*first.base.sites, *first.base.tables):
        assert torch.equal(first.weight(site), second.weight(site)), site
    assert first.base.fingerprint == second.base.fingerprint


def test_a_compvis_file_is_the_base_that_its_folder_is(tiny: tuple[Path, Path]) -> None:
    expect_same(*tiny)


def test_the_names_in_the_file_are_those_that_diffusers_converts(tiny: tuple[Path, Path]) -> None:
    folder, path = tiny
    config = json.loads((folder / "unet" / "config.json").read_text())

    converted = converters.convert_ldm_unet_checkpoint(tensors_of(path), config)

    expected = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())


def test_one_changed_bit_of_the_file_changes_the_fingerprint(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    entry = open_weight_file(tiny[1]).tensors[f"{PREFIX}out.2.weight"]
    content = bytearray(tiny[1].read_bytes())
    content[entry.begin] ^= 1
    (tmp_path / "other.safetensors").write_bytes(content)

    fingerprints = {
        open_checkpoint(path, name="x").base.fingerprint for path in (*tiny, tmp_path / "other.safetensors")
    }

    assert len(fingerprints) == 2


@pytest.mark.parametrize("part", ["unet", "unet/diffusion_pytorch_model.safetensors"])
def test_a_component_alone_is_opened_with_its_own_sites(part: str, tiny: tuple[Path, Path]) -> None:
    whole = open_checkpoint(tiny[0], name="whole")

    found = open_checkpoint(tiny[0] / part, name="part")

    assert found.base.sites == {site: shape for site, shape in whole.base.sites.items() if site.component == "unet"}
    with pytest.raises(Stop, match=r"can be read but not run.*unet alone.*whole folder"):
        _ = found.folder


def test_a_component_file_without_configuration_is_known_by_its_names(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "any-name.safetensors"
    path.write_bytes((tiny[0] / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())

    found, expected = open_checkpoint(path, name="file").base, open_checkpoint(tiny[0] / "unet", name="folder").base

    assert (found.fingerprint, found.family) == (expected.fingerprint, expected.family)


def test_a_folder_with_one_file_is_that_file_and_one_with_two_has_to_be_narrowed(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").write_bytes(tiny[1].read_bytes())
    assert open_checkpoint(tmp_path, name="x").base.sites == open_checkpoint(tiny[1], name="x").base.sites

    (tmp_path / "b.safetensors").write_bytes(tiny[1].read_bytes())
    with pytest.raises(Stop, match=r"2 files of weights \(a\.safetensors, b\.safetensors\).*give one of the files"):
        open_checkpoint(tmp_path, name="x")


def clip(width: int, layers: int, *, projected: bool) -> dict[str, Tensor]:
    config = CLIPTextConfig(
        vocab_size=30, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=7, projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return {name: tensor for name, tensor in kind(config).state_dict().items() if not name.endswith("position_ids")}


def write_pipeline(folder: Path, encoders: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Writes a pipeline with a small U-Net and these text encoders; returns the U-Net under CompVis' names."""
    write_base_folder(folder)
    for name, state in encoders.items():
        (folder / name).mkdir(exist_ok=True)
        write_weight_file(folder / name / "model.safetensors", {key: each.contiguous() for key, each in state.items()})
    unet = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return original_tensors(unet, unet_names(small_base()), prefix=PREFIX)


def test_the_openclip_encoder_of_stable_diffusion_2_is_taken_apart_without_its_last_layer(tmp_path: Path) -> None:
    text = clip(8, 2, projected=False)
    tensors = write_pipeline(tmp_path / "folder", {"text_encoder": text})
    tensors |= openclip_tensors(text, prefix="cond_stage_model.model.", extra_layers=1)
    tensors["cond_stage_model.model.text_projection"] = torch.randn(8, 8)
    write_weight_file(tmp_path / "file.safetensors", tensors)

    expect_same(tmp_path / "folder", tmp_path / "file.safetensors")


def test_the_two_encoders_of_sdxl_are_found_and_the_projection_is_turned(tmp_path: Path) -> None:
    first, second = clip(8, 1, projected=False), clip(12, 2, projected=True)
    tensors = write_pipeline(tmp_path / "folder", {"text_encoder": first, "text_encoder_2": second})
    for name, tensor in first.items():
        path = name.removeprefix("text_model.")
        tensors[f"conditioner.embedders.0.transformer.text_model.{path}"] = tensor
    tensors |= openclip_tensors(second, prefix="conditioner.embedders.1.model.")
    write_weight_file(tmp_path / "file.safetensors", tensors)

    expect_same(tmp_path / "folder", tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors", name="x")
    query = Site("text_encoder_2", "text_model.encoder.layers.1.self_attn.q_proj")
    assert found.base.sites[query].weight_shape == (12, 12)
    assert torch.equal(
        found.weight(Site("text_encoder_2", "text_projection")), second["text_projection.weight"].float()
    )


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


REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "kohya's LoRA": (
        {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8), "x.alpha": (1,)},
        "this is an adapter and no base model",
    ),
    "PEFT's LoRA": (
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 8)},
        "this is an adapter and no base model",
    ),
    "a LoKr": ({"lycoris_transformer_blocks_0.lokr_w1": (4, 8)}, "this is an adapter and no base model"),
    "a VAE": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}, "encoder.conv_in"),
    "nothing but a VAE": ({"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}, "0 tensors"),
    "a language model of unknown sizes": (
        {f"model.layers.{layer}.{path}.weight": (24, 24) for layer in range(2) for path in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")} | {"model.embed_tokens.weight": (9, 24), "lm_head.weight": (9, 24)},
        "put config.json of the model beside the file",
    ),
    "half of a U-Net": (
        {f"{PREFIX}input_blocks.0.0.weight": (8, 4, 3, 3), f"{PREFIX}out.2.weight": (4, 8, 3, 3)},
        "is the file complete",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_base_is_refused_and_says_what_was_seen(case: str, tmp_path: Path) -> None:
    shapes, said = REFUSED[case]
    write_weight_file(tmp_path / "file.safetensors", {name: torch.ones(shape) for name, shape in shapes.items()})

    with pytest.raises(Stop) as raised:
        open_checkpoint(tmp_path / "file.safetensors", name="x")

    assert said in str(raised.value)
    assert str(tmp_path / "file.safetensors") in str(raised.value)


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.ckpt", "pickles.*safetensors"),
        ("model.pt", "pickles.*safetensors"),
        ("model.safetensors.part", "this download was not finished"),
        ("model.safetensors.incomplete", "this download was not finished"),
        ("model-00002-of-00005.safetensors", "part 2 of 5.*give the folder"),
        ("cut.safetensors", "truncated.*ownload"),
        ("page.safetensors", "web page"),
        ("renamed.safetensors", "pickle"),
        ("missing.safetensors", "no such file"),
    ],
)
def test_everyday_mistakes_are_told_what_to_do(name: str, said: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    content = tiny[1].read_bytes()
    contents = {
        "cut.safetensors": content[:-100],
        "page.safetensors": b"<!doctype html><html></html>",
        "renamed.safetensors": b"PK\x03\x04" + bytes(100),
    }
    if name != "missing.safetensors":
        (tmp_path / name).write_bytes(contents.get(name, content))

    with pytest.raises(Stop, match=f"(?s){said}"):
        open_checkpoint(tmp_path / name, name="x")


def test_a_peft_folder_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(Stop, match=r"adapter and no base model.*lorax inspect"):
        open_checkpoint(tmp_path, name="x")


def test_a_folder_of_a_class_that_is_not_known_says_which(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "KolorsUNet"}')

    with pytest.raises(Stop, match="KolorsUNet"):
        open_checkpoint(tmp_path, name="x")


def test_the_small_unet_is_what_its_names_say() -> None:
    base = small_base()
    names = {module.path: module.shape for module in unet_names(base) if module.shape is not None}

    from lorax.original_names import unet_of

    found = unet_of({f"{path}.weight": shape.weight_shape for path, shape in names.items()})

    assert list(found.modules()) == list(SMALL_UNET.modules())


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
