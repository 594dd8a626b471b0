"""Wan 2.1 and 2.2: transformer blocks with self- and cross-attention over video.

Wan 2.2 A14B has two experts of equal architecture, for high noise (transformer) and low noise (transformer_2); an
adapter file for one of them does not tell which.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.inventories.transformer import feed_forward, heads_norm, projections, two_layers
from lorax.inventories.translation import Table, Translation
from lorax.inventory import Inventory, Parameter, Parameters, convolution, linear, norm, take_inventory
from lorax.naming import own_names

NAME = "wan"
_TEXT, _IMAGE = 4096, 1280


@dataclass(frozen=True, slots=True)
class _Transformer:
    """Describes a WanTransformer3DModel; sees_image: it attends to an image's CLIP states beside the text."""

    layers: int
    width: int
    inner: int
    inputs: int = 16
    outputs: int = 16
    sees_image: bool = False

    def parameters(self) -> Parameters:
        """Lists all parameters; modulation tables belong to no module."""
        width = self.width
        yield Parameter("scale_shift_table", (1, 2, width))
        yield from convolution("patch_embedding", width, self.inputs, 1, 2, 2)
        yield from two_layers("condition_embedder.time_embedder", width, 256)
        yield from linear("condition_embedder.time_proj", 6 * width, width)
        yield from two_layers("condition_embedder.text_embedder", width, _TEXT)
        if self.sees_image:
            path = "condition_embedder.image_embedder"
            yield from norm(f"{path}.norm1", _IMAGE)
            yield from linear(f"{path}.ff.net.0.proj", _IMAGE, _IMAGE)
            yield from linear(f"{path}.ff.net.2", width, _IMAGE)
            yield from norm(f"{path}.norm2", width)
        for number in range(self.layers):
            yield from self._block(f"blocks.{number}")
        yield from linear("proj_out", 4 * self.outputs, width)

    def _block(self, path: str) -> Parameters:
        width = self.width
        yield Parameter(f"{path}.scale_shift_table", (1, 6, width))
        for attention in ("attn1", "attn2"):
            yield from projections(f"{path}.{attention}", width)
            yield from heads_norm(f"{path}.{attention}", width)
        if self.sees_image:
            for part in ("add_k_proj", "add_v_proj"):
                yield from linear(f"{path}.attn2.{part}", width, width)
            yield Parameter(f"{path}.attn2.norm_added_k.weight", (width,))
        yield from norm(f"{path}.norm2", width)
        yield from feed_forward(f"{path}.ffn", width, self.inner)


_TOP: Table = {
    "patch_embedding": ("patch_embedding",),
    "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
    "time_embedding.2": ("condition_embedder.time_embedder.linear_2",),
    "time_projection.1": ("condition_embedder.time_proj",),
    "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
    "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
    "img_emb.proj.0": ("condition_embedder.image_embedder.norm1",),
    "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj",),
    "img_emb.proj.3": ("condition_embedder.image_embedder.ff.net.2",),
    "img_emb.proj.4": ("condition_embedder.image_embedder.norm2",),
    "head.head": ("proj_out",),
}


def _attention(original: str, canonical: str) -> Table:
    names = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
    return {f"{original}.{name}": (f"{canonical}.{other}",) for name, other in names.items()}


_BLOCK: Table = {
    **_attention("self_attn", "attn1"),
    **_attention("cross_attn", "attn2"),
    "cross_attn.k_img": ("attn2.add_k_proj",),
    "cross_attn.v_img": ("attn2.add_v_proj",),
    "cross_attn.norm_k_img": ("attn2.norm_added_k",),
    # The original code counts the normalisation before the cross-attention last, diffusers in order.
    "norm3": ("norm2",),
    "ffn.0": ("ffn.net.0.proj",),
    "ffn.2": ("ffn.net.2",),
}

ORIGINAL = {name: Translation(name, top=_TOP, blocks={"blocks": ("blocks", _BLOCK)}) for name in (
    "transformer", "transformer_2",
)}  # fmt: skip
"""The names of Alibaba's code, by component."""

_14B = _Transformer(40, 5120, 13824)
_14B_FROM_IMAGE = _Transformer(40, 5120, 13824, inputs=36)

_TRANSFORMERS = {
    "wan2.1-t2v-1.3b": (_Transformer(30, 1536, 8960),),
    "wan2.1-t2v-14b": (_14B,),
    "wan2.1-i2v-14b": (_Transformer(40, 5120, 13824, inputs=36, sees_image=True),),
    "wan2.2-ti2v-5b": (_Transformer(30, 3072, 14336, inputs=48, outputs=48),),
    "wan2.2-t2v-a14b": (_14B, _14B),
    "wan2.2-i2v-a14b": (_14B_FROM_IMAGE, _14B_FROM_IMAGE),
}

_LABELS = {
    "wan2.1-t2v-1.3b": ("Wan Video 1.3B t2v", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan2.1_t2v_1.3B_fp16"),
    "wan2.1-t2v-14b": ("Wan Video 14B t2v", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "wan2.1_t2v_14B_fp8_e4m3fn"),
    "wan2.1-i2v-14b": (
        "Wan Video 14B i2v 480p", "Wan Video 14B i2v 720p", "Wan-AI/Wan2.1-I2V-14B-480P", "Wan-AI/Wan2.1-I2V-14B-720P",
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    ),
    "wan2.2-ti2v-5b": ("Wan Video 2.2 TI2V-5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
    "wan2.2-t2v-a14b": ("Wan Video 2.2 T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
    "wan2.2-i2v-a14b": ("Wan Video 2.2 I2V-A14B", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
}  # fmt: skip


@cache
def _inventory(component: str, transformer: _Transformer) -> Inventory:
    return take_inventory({component: transformer.parameters()})


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(
            name,
            family=NAME,
            labels=_LABELS[name],
            components={},
            shared=[
                _inventory(component, transformer)
                for component, transformer in zip(("transformer", "transformer_2"), transformers, strict=False)
            ],
        )
        for name, transformers in _TRANSFORMERS.items()
    )


FAMILY = Family(
    name=NAME,
    summary="Wan 2.1 and 2.2: transformer blocks over video",
    versions=_versions,
    recognises=holds_class("transformer", "WanTransformer3DModel"),
    components=present("transformer", "transformer_2"),
    canonical=as_it_is,
    spoken=dict.fromkeys(_TRANSFORMERS, ("wan", "wan2.1")),
    parameters={
        "wan2.1-t2v-1.3b": 1_418_996_800,
        "wan2.1-t2v-14b": 14_288_491_584,
        "wan2.1-i2v-14b": 16_394_878_784,
        "wan2.2-ti2v-5b": 4_999_787_712,
        "wan2.2-t2v-a14b": 28_576_983_168,
        "wan2.2-i2v-a14b": 28_577_802_368,
    },
    labels=("Wan Video",),
    namings={"own": own_names, "original": ORIGINAL["transformer"], "original-2": ORIGINAL["transformer_2"]},
    trainer_naming="original",
    # Trainers write one file for each expert, with the same names; the low-noise expert has no prefix of its own.
    flat_prefixes={"transformer": ("lora_unet_", "lora_unet__", "lora_transformer_")},
    # The layers that adapters usually patch are equal; only what the first layer sees differs.
    equal_architectures=(frozenset({"wan2.1-t2v-14b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"}),),
)
