"""Stable Diffusion 3 and 3.5: joint blocks with two CLIP text encoders and T5-XXL.

Canonical names are diffusers'; the original code, whose names trainers use, fuses query, key and value and stores the
last modulations as shift, scale where diffusers has scale, shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import holds_class, known_base, present, t5_xxl
from lorax.inventories.text_encoders import (
    CLIP_TABLES,
    T5_TABLES,
    clip_text,
    own_names_and_text_encoders,
    with_text_model,
)
from lorax.inventories.transformer import feed_forward, heads_norm, joint_attention, projections, two_layers
from lorax.inventories.translation import Translation
from lorax.inventory import Inventory, Parameters, convolution, linear, take_inventory

NAME = "stable-diffusion-3"
_HEAD, _TEXT, _POOLED, _LATENT, _PATCH = 64, 4096, 2048, 16, 2


@dataclass(frozen=True, slots=True)
class _Transformer:
    """Describes an SD3Transformer2DModel; dual: how many blocks have a second attention over the image alone."""

    depth: int
    dual: int = 0
    normalised: bool = True

    @property
    def width(self) -> int:
        """One head of 64 for each block."""
        return _HEAD * self.depth

    def parameters(self) -> Parameters:
        """Lists all parameters; the table of positions is a buffer."""
        width = self.width
        yield from convolution("pos_embed.proj", width, _LATENT, _PATCH, _PATCH)
        yield from two_layers("time_text_embed.timestep_embedder", width, 256)
        yield from two_layers("time_text_embed.text_embedder", width, _POOLED)
        yield from linear("context_embedder", width, _TEXT)
        for number in range(self.depth):
            yield from self._block(number)
        yield from linear("norm_out.linear", 2 * width, width)
        yield from linear("proj_out", _LATENT * _PATCH**2, width)

    def _block(self, number: int) -> Parameters:
        path, width, head = f"transformer_blocks.{number}", self.width, _HEAD if self.normalised else None
        # The text leaves the last block unused: no output, no feed-forward part, only scale and shift.
        last = number == self.depth - 1
        yield from linear(f"{path}.norm1.linear", (9 if number < self.dual else 6) * width, width)
        yield from linear(f"{path}.norm1_context.linear", (2 if last else 6) * width, width)
        yield from joint_attention(f"{path}.attn", width, head=head, last=last)
        if number < self.dual:
            yield from projections(f"{path}.attn2", width)
            if head is not None:
                yield from heads_norm(f"{path}.attn2", head)
        yield from feed_forward(f"{path}.ff", width, 4 * width)
        if not last:
            yield from feed_forward(f"{path}.ff_context", width, 4 * width)


def _swapped(base: BaseModel) -> frozenset[str]:
    """The last modulation of all, and that of the text in the last block."""
    last = sum(site.path.endswith(".norm1_context.linear") for site in base.sites) - 1
    return frozenset({"final_layer.adaLN_modulation.1", f"joint_blocks.{last}.context_block.adaLN_modulation.1"})


def _qkv(attention: str, added: str = "") -> tuple[str, ...]:
    return tuple(f"{attention}.{f'add_{part}_proj' if added else f'to_{part}'}" for part in "qkv")


ORIGINAL = Translation(
    "transformer",
    top={
        "x_embedder.proj": ("pos_embed.proj",),
        "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
        "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
        "context_embedder": ("context_embedder",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    blocks={
        "joint_blocks": (
            "transformer_blocks",
            {
                "x_block.adaLN_modulation.1": ("norm1.linear",),
                "x_block.attn.qkv": _qkv("attn"),
                "x_block.attn.ln_q": ("attn.norm_q",),
                "x_block.attn.ln_k": ("attn.norm_k",),
                "x_block.attn.proj": ("attn.to_out.0",),
                "x_block.attn2.qkv": _qkv("attn2"),
                "x_block.attn2.ln_q": ("attn2.norm_q",),
                "x_block.attn2.ln_k": ("attn2.norm_k",),
                "x_block.attn2.proj": ("attn2.to_out.0",),
                "x_block.mlp.fc1": ("ff.net.0.proj",),
                "x_block.mlp.fc2": ("ff.net.2",),
                "context_block.adaLN_modulation.1": ("norm1_context.linear",),
                "context_block.attn.qkv": _qkv("attn", added="text"),
                "context_block.attn.ln_q": ("attn.norm_added_q",),
                "context_block.attn.ln_k": ("attn.norm_added_k",),
                "context_block.attn.proj": ("attn.to_add_out",),
                "context_block.mlp.fc1": ("ff_context.net.0.proj",),
                "context_block.mlp.fc2": ("ff_context.net.2",),
            },
        ),
    },
    swapped=_swapped,
)
"""The names of the code of Stability AI."""

_TRANSFORMERS = {
    "sd3-medium": _Transformer(24, normalised=False),
    "sd3.5-medium": _Transformer(24, dual=13),
    "sd3.5-large": _Transformer(38),
}

_LABELS = {
    "sd3-medium": (
        "SD 3", "stable-diffusion-3-m", "stable-diffusion-3-3-medium", "stable-diffusion-3-medium",
        "stabilityai/stable-diffusion-3-medium-diffusers", "sd3_medium_incl_clips", "sd3_medium_incl_clips_t5xxlfp8",
    ),
    "sd3.5-medium": (
        "SD 3.5 Medium", "stable-diffusion-3-3-5-medium", "stable-diffusion-3-5-medium", "sd3-5-medium",
        "stabilityai/stable-diffusion-3.5-medium",
    ),
    "sd3.5-large": (
        "SD 3.5 Large", "SD 3.5 Large Turbo", "stable-diffusion-3-3-5-large", "stable-diffusion-3-5-large",
        "sd3-5-large", "stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-diffusion-3.5-large-turbo",
    ),
}  # fmt: skip


@cache
def _clips() -> Inventory:
    return take_inventory(
        {
            "text_encoder": clip_text(12, 768, projection=768),
            "text_encoder_2": clip_text(32, 1280, projection=1280),
        }
    )


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(
            name,
            family=NAME,
            labels=_LABELS[name],
            components={"transformer": transformer.parameters()},
            shared=(_clips(), t5_xxl("text_encoder_3")),
        )
        for name, transformer in _TRANSFORMERS.items()
    )


def _canonical(component: str, module: str) -> str:
    return with_text_model(module) if component in {"text_encoder", "text_encoder_2"} else module


FAMILY = Family(
    name=NAME,
    summary="Stable Diffusion 3 and 3.5: joint transformer blocks, with CLIP-L, CLIP-G and T5-XXL",
    versions=_versions,
    recognises=holds_class("transformer", "SD3Transformer2DModel"),
    components=present("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"),
    canonical=_canonical,
    not_sites=CLIP_TABLES | T5_TABLES,
    spoken={
        "sd3-medium": ("sd3-medium", "stable-diffusion-3-medium"),
        "sd3.5-medium": ("sd3-5-medium", "stable-diffusion-3-5-medium"),
        "sd3.5-large": ("sd3-5-large", "stable-diffusion-3-5-large"),
    },
    parameters={
        "sd3-medium": 7_608_948_800,
        "sd3.5-medium": 7_823_792_320,
        "sd3.5-large": 13_637_248_320,
    },
    labels=("SD 3.5",),
    namings={"own": own_names_and_text_encoders, "original": ORIGINAL},
    trainer_naming="original",
    flat_prefixes={
        "transformer": ("lora_unet_", "lora_transformer_"),
        "text_encoder": ("lora_te1_",),
        "text_encoder_2": ("lora_te2_",),
        "text_encoder_3": ("lora_te3_",),
    },
)
