"""csd: contrastive style descriptors; near points are pictures of one style, whatever they show.

Somepalli et al., arXiv 2404.01292: OpenAI's CLIP ViT-L/14 trained on, its projection replaced by one for style. Weights
are read under the checkpoint's own names: `backbone.*` is the vision tower as OpenAI names it, `last_layer_style`
(width, d) the projection; sizes are those of the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from lorax.clip_names import layers, vision_tower
from lorax.encoder import Encoder, EncoderKind
from lorax.encoder_folder import EncoderFolder, at_rest, in_parts
from lorax.encoder_pixels import Preparation, read_preparation

_PREFIX = "backbone."
_STYLE = "last_layer_style"
_HEAD = 64
"""Width of one attention head of every vision tower that OpenAI released."""


class _Style(Encoder):
    asks = "style"

    def __init__(self, tower: Any, projection: Tensor, prepare: Preparation) -> None:  # noqa: ANN401 - of transformers
        self._tower, self._projection, self._prepare = tower, projection, prepare

    def pictures(self, pixels: Tensor) -> Tensor:
        """Returns style descriptors (n, d) of length 1."""
        return in_parts(pixels, lambda part, _rows: normalize(self._seen(part) @ self._projection))

    def _seen(self, pixels: Tensor) -> Tensor:
        seen: Tensor = self._tower(pixel_values=self._prepare(pixels.to(self._tower.device))).pooler_output
        return seen


def _open(path: Path, device: str) -> Encoder:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = EncoderFolder(
        path,
        "csd",
        f"a folder with the checkpoint's own tensors, {_PREFIX}* and {_STYLE}, as safetensors",
        "state = torch.load(FILE, weights_only=True)['model_state_dict']; "
        "save_file({name.removeprefix('module.'): tensor.contiguous() for name, tensor in state.items()}, OUT)",
    )
    folder.require_weights()
    tensors = {name.removeprefix("module."): tensor for name, tensor in folder.tensors().items()}
    if missing := [name for name in (_STYLE, f"{_PREFIX}conv1.weight") if name not in tensors]:
        raise folder.refusal(f"there is no tensor {missing[0]}")
    sizes = _sizes(tensors)
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes))
    folder.filled(tower, vision_tower(tensors, _PREFIX), part="vision tower")
    prepare = read_preparation(folder, Preparation.like_clip(int(sizes["image_size"])))
    return _Style(at_rest(tower, device), tensors[_STYLE].to(device), prepare)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = tensors[f"{_PREFIX}conv1.weight"].shape
    positions = tensors[f"{_PREFIX}positional_embedding"].shape[0]
    return {
        "hidden_size": width,
        "intermediate_size": tensors[f"{_PREFIX}transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": layers(tensors, _PREFIX),
        "num_attention_heads": width // _HEAD,
        "patch_size": patch,
        "image_size": patch * int((positions - 1) ** 0.5),
        "hidden_act": "quick_gelu",
    }


ENCODER = EncoderKind(
    name="csd",
    summary="CSD: likeness of style",
    reference="arXiv 2404.01292",
    open=_open,
)
