"""The transformer of HunyuanVideo and FramePack by formula, and what Tencent's code calls its modules."""

from __future__ import annotations

from lorax.inventories.transformer import feed_forward, joint_block, projections, single_block, two_layers
from lorax.inventories.translation import Translation
from lorax.inventory import Parameters, convolution, linear, norm

_WIDTH, _HEAD, _TEXT, _POOLED, _LATENT = 3072, 128, 4096, 768, 16
_DOUBLE, _SINGLE, _REFINER = 20, 40, 2
_IMAGE = 1152


def transformer(*, inputs: int = _LATENT, guidance: bool = True, framepack: bool = False) -> Parameters:
    """Lists the parameters of HunyuanVideoTransformer3DModel, or of HunyuanVideoFramepackTransformer3DModel.

    inputs: latent channels, conditions included.
    """
    yield from convolution("x_embedder.proj", _WIDTH, inputs, 1, 2, 2)
    yield from _context("context_embedder")
    yield from two_layers("time_text_embed.timestep_embedder", _WIDTH, 256)
    yield from two_layers("time_text_embed.text_embedder", _WIDTH, _POOLED)
    if guidance:
        yield from two_layers("time_text_embed.guidance_embedder", _WIDTH, 256)
    for number in range(_DOUBLE):
        yield from joint_block(f"transformer_blocks.{number}", _WIDTH, head=_HEAD)
    for number in range(_SINGLE):
        yield from single_block(f"single_transformer_blocks.{number}", _WIDTH, head=_HEAD)
    yield from linear("norm_out.linear", 2 * _WIDTH, _WIDTH)
    yield from linear("proj_out", 4 * _LATENT, _WIDTH)
    if framepack:
        yield from _past("clean_x_embedder")
        yield from linear("image_projection.up", 3 * _WIDTH, _IMAGE)
        yield from linear("image_projection.down", _WIDTH, 3 * _WIDTH)


def _context(path: str) -> Parameters:
    """The text's embedding, which two attention blocks refine."""
    yield from two_layers(f"{path}.time_text_embed.timestep_embedder", _WIDTH, 256)
    yield from two_layers(f"{path}.time_text_embed.text_embedder", _WIDTH, _TEXT)
    yield from linear(f"{path}.proj_in", _WIDTH, _TEXT)
    for number in range(_REFINER):
        block = f"{path}.token_refiner.refiner_blocks.{number}"
        yield from norm(f"{block}.norm1", _WIDTH)
        yield from projections(f"{block}.attn", _WIDTH)
        yield from norm(f"{block}.norm2", _WIDTH)
        yield from feed_forward(f"{block}.ff", _WIDTH, 4 * _WIDTH)
        yield from linear(f"{block}.norm_out.linear", 2 * _WIDTH, _WIDTH)


def _past(path: str) -> Parameters:
    """The embeddings of past frames, the further back the coarser."""
    for name, scale in (("proj", 1), ("proj_2x", 2), ("proj_4x", 4)):
        yield from convolution(f"{path}.{name}", _WIDTH, _LATENT, scale, 2 * scale, 2 * scale)


_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")

ORIGINAL = Translation(
    "transformer",
    top={
        "img_in.proj": ("x_embedder.proj",),
        "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "time_in.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        "guidance_in.mlp.0": ("time_text_embed.guidance_embedder.linear_1",),
        "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
        "txt_in.input_embedder": ("context_embedder.proj_in",),
        "txt_in.t_embedder.mlp.0": ("context_embedder.time_text_embed.timestep_embedder.linear_1",),
        "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
        "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
        "txt_in.c_embedder.linear_2": ("context_embedder.time_text_embed.text_embedder.linear_2",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    blocks={
        "txt_in.individual_token_refiner.blocks": (
            "context_embedder.token_refiner.refiner_blocks",
            {
                "norm1": ("norm1",),
                "self_attn_qkv": _QKV,
                "self_attn_proj": ("attn.to_out.0",),
                "norm2": ("norm2",),
                "mlp.fc1": ("ff.net.0.proj",),
                "mlp.fc2": ("ff.net.2",),
                "adaLN_modulation.1": ("norm_out.linear",),
            },
        ),
        "double_blocks": (
            "transformer_blocks",
            {
                "img_mod.linear": ("norm1.linear",),
                "img_attn_qkv": _QKV,
                "img_attn_q_norm": ("attn.norm_q",),
                "img_attn_k_norm": ("attn.norm_k",),
                "img_attn_proj": ("attn.to_out.0",),
                "img_mlp.fc1": ("ff.net.0.proj",),
                "img_mlp.fc2": ("ff.net.2",),
                "txt_mod.linear": ("norm1_context.linear",),
                "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                "txt_attn_q_norm": ("attn.norm_added_q",),
                "txt_attn_k_norm": ("attn.norm_added_k",),
                "txt_attn_proj": ("attn.to_add_out",),
                "txt_mlp.fc1": ("ff_context.net.0.proj",),
                "txt_mlp.fc2": ("ff_context.net.2",),
            },
        ),
        "single_blocks": (
            "single_transformer_blocks",
            {
                "modulation.linear": ("norm.linear",),
                "linear1": (*_QKV, "proj_mlp"),
                "linear2": ("proj_out",),
                "q_norm": ("attn.norm_q",),
                "k_norm": ("attn.norm_k",),
            },
        ),
    },
    swapped=lambda _base: frozenset({"final_layer.adaLN_modulation.1"}),
)
"""The names of Tencent's code."""


_IN_COMFYUI = {
    "_attn_qkv": "_attn.qkv", "_attn_proj": "_attn.proj", "_attn_q_norm": "_attn.norm.query_norm",
    "_attn_k_norm": "_attn.norm.key_norm", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2", "_mod.linear": "_mod.lin",
    "modulation.linear": "modulation.lin", "in.mlp.0": "in.in_layer", "in.mlp.2": "in.out_layer",
    "embedder.mlp.0": "embedder.in_layer", "embedder.mlp.2": "embedder.out_layer",
    "c_embedder.linear_1": "c_embedder.in_layer", "c_embedder.linear_2": "c_embedder.out_layer",
}  # fmt: skip
"""The end of a name in Tencent's code -> its end in ComfyUI's, which builds the model from the parts of Flux."""


def _in_comfyui(path: str) -> str:
    if path in {"q_norm", "k_norm"}:
        return {"q_norm": "norm.query_norm", "k_norm": "norm.key_norm"}[path]
    return next((path.removesuffix(old) + new for old, new in _IN_COMFYUI.items() if path.endswith(old)), path)


COMFYUI = Translation(
    ORIGINAL.component,
    top={_in_comfyui(path): canonical for path, canonical in ORIGINAL.top.items()},
    blocks={
        block: (canonical, {_in_comfyui(path): names for path, names in table.items()})
        for block, (canonical, table) in ORIGINAL.blocks.items()
    },
    swapped=ORIGINAL.swapped,
)
"""The names of ComfyUI's code, and so of most LoRA files made for it."""
