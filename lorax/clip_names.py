"""Names of CLIP's weights: as OpenAI and open_clip save them, and as transformers does.

Blocks keep queries, keys and values in one matrix there; both projections stand the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCKS = "transformer.resblocks."


def vision_tower(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns transformers' names of a vision tower that is saved under a prefix; its projection is left out."""
    return _tower(tensors, prefix, _VISION)


def text_tower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns transformers' names of the text tower, which is saved without a prefix."""
    return _tower(tensors, "", _TEXT)


def both_towers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns transformers' names of a whole CLIP. Raises KeyError where a projection is missing."""
    return {
        **{f"vision_model.{name}": tensor for name, tensor in vision_tower(tensors, "visual.").items()},
        **{f"text_model.{name}": tensor for name, tensor in text_tower(tensors).items()},
        "visual_projection.weight": tensors["visual.proj"].T.contiguous(),
        "text_projection.weight": tensors["text_projection"].T.contiguous(),
        "logit_scale": tensors["logit_scale"],
    }


def layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Counts the blocks of a tower."""
    start = f"{prefix}{_BLOCKS}"
    return len({name.removeprefix(start).partition(".")[0] for name in tensors if name.startswith(start)})


def _tower(tensors: Mapping[str, Tensor], prefix: str, outside: Mapping[str, str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix)
        if not name.startswith(prefix):
            continue
        if own in outside:
            found[outside[own]] = tensor
        elif own.startswith(_BLOCKS):
            number, _, rest = own.removeprefix(_BLOCKS).partition(".")
            found |= {f"encoder.layers.{number}.{part}": each for part, each in _of_block(rest, tensor).items()}
    return found


def _of_block(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name.startswith("attn.in_proj_"):
        leaf = name.removeprefix("attn.in_proj_")
        parts = tensor.chunk(3)
        return {f"self_attn.{role}_proj.{leaf}": part for role, part in zip("qkv", parts, strict=True)}
    module, _, leaf = name.rpartition(".")
    return {f"{_BLOCK.get(module, module)}.{leaf}": tensor}
