"""Names of the model's own code: `diffusion_model.double_blocks.0.img_attn.qkv`, as ComfyUI has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.dialect import all_modules
from lorax.flat_names import spelled_paths
from lorax.naming import NamedModule
from lorax.pipeline_names import DENOISERS

DENOISER_PREFIX = "diffusion_model."
NATIVE = re.compile(
    r"(double_blocks|single_blocks|blocks|layers|joint_blocks|input_blocks|middle_block|output_blocks|noise_refiner"
    r"|context_refiner|txt_in|img_in|vector_in|time_in|guidance_in|final_layer|head|patch_embedding|text_embedding"
    r"|time_projection|img_emb|cap_embedder|t_embedder)\..+"
)
"""A path of a module of a diffusion transformer or U-Net as its own code calls it."""
_CLIP_BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
_T5_BY_WIDTH = {4096: "t5xxl", 2048: "t5xl", 1024: "t5large", 768: "t5base"}


def native_naming(base: BaseModel) -> str:
    """Gives the naming of the code of the model's makers, "own" where diffusers' names are those."""
    from lorax.base_models import FAMILIES

    family = FAMILIES.get(base.family)
    namings = (*family.namings, *family.program_namings) if family is not None else ()
    return next((name for name in ("comfyui", "original", "sgm") if name in namings), "own")


def native_modules(base: BaseModel, *, bare: bool = True) -> Iterator[tuple[str, NamedModule]]:
    """Lists the modules as ComfyUI calls them: `diffusion_model.` or `text_encoders.<its name>.transformer.` before.

    bare: also the denoiser's without anything before them.
    """
    encoders = encoder_names(base)
    for module in all_modules(base, first=native_naming(base), programs=True):
        if module.component in DENOISERS:
            yield DENOISER_PREFIX + module.path, module
            if bare:
                yield module.path, module
        elif module.component in encoders:
            for path in spelled_paths(module):
                name = encoders[module.component]
                yield f"text_encoders.{name}.transformer.{path}", module
                yield f"text_encoders.{name}.{path}", module


def encoder_names(base: BaseModel) -> dict[str, str]:
    """Gives what ComfyUI calls each text encoder, by what the encoder is and not by its number."""
    found: dict[str, str] = {}
    for site, shape in base.sites.items():
        if not site.component.startswith("text_encoder") or site.component in found:
            continue
        if site.path.endswith("self_attn.q_proj") and site.path.startswith("text_model."):
            found[site.component] = _CLIP_BY_WIDTH.get(shape.in_features, "clip_l")
        elif site.path.endswith("SelfAttention.q"):
            every_layer = Site(site.component, "encoder.block.1.layer.0.SelfAttention.relative_attention_bias")
            umt5 = "um" if every_layer in base.tables else ""
            found[site.component] = umt5 + _T5_BY_WIDTH.get(shape.in_features, "t5xxl")
        elif site.path.endswith("self_attn.q_proj"):
            found[site.component] = _DECODER_BY_WIDTH.get(shape.in_features, "llama")
    return found


_DECODER_BY_WIDTH = {4096: "llama", 3584: "qwen25_7b", 2304: "gemma2_2b", 2560: "qwen3_4b"}
