"""imagereward: how much people would like a picture for its prompt, by a BLIP that reads the prompt over the picture.

Xu et al., arXiv 2304.05977: BLIP's vision transformer (ViT-L/16), its text encoder with cross attention to every patch,
and five linear layers (768, 1024, 128, 64, 16, 1, nothing between them) on the first token. Weights are read under the
checkpoint's own names: `blip.visual_encoder.*`, `blip.text_encoder.*`, `mlp.layers.*`; sizes are those of the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from lorax.encoder import Encoder, EncoderKind
from lorax.encoder_folder import EncoderFolder, at_rest, in_parts
from lorax.encoder_pixels import Preparation, read_preparation

_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_LINEAR = (0, 2, 4, 6, 7)
"""Numbers of the linear layers in the head; between them it had dropout."""
_MEAN, _SPREAD = 0.16717362830052426, 1.0333394966054072
"""Of rewards on the authors' data; the published reward is what is left after them."""
_LONGEST = 35
_WIDTH = 64
"""Tokens of a prompt, and width of an attention head, in BLIP."""
_RENAMED = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "blocks": "encoder.layers",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
}


class _Reward(Encoder):
    asks = "preference"

    def __init__(self, vision: Any, text: Any, head: nn.Module, reading: tuple[Any, Preparation]) -> None:  # noqa: ANN401
        self._vision, self._text, self._head = vision, text, head
        self._tokenizer, self._prepare = reading

    def pictures(self, pixels: Tensor) -> Tensor:
        """Returns class tokens (n, width) of length 1, before anything was read."""
        return in_parts(pixels, lambda part, _rows: normalize(self._seen(part)[:, 0]))

    def preferences(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns rewards (n,), normalised as published."""
        found = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(self._text.device)

        def reward(part: Tensor, rows: slice) -> Tensor:
            read = self._text(
                input_ids=found.input_ids[rows],
                attention_mask=found.attention_mask[rows],
                encoder_hidden_states=self._seen(part),
                is_decoder=False,
            ).last_hidden_state[:, 0]
            given: Tensor = self._head(read)
            return (given[:, 0] - _MEAN) / _SPREAD

        return in_parts(pixels, reward)

    def _seen(self, pixels: Tensor) -> Tensor:
        prepared = self._prepare(pixels.to(self._vision.device))
        seen: Tensor = self._vision(pixel_values=prepared).last_hidden_state
        return seen


def _open(path: Path, device: str) -> Encoder:
    from transformers import BertTokenizer

    folder = EncoderFolder(
        path,
        "imagereward",
        f"a folder with the checkpoint's own tensors, {_VISION}*, {_TEXT}* and {_HEAD}*, as safetensors, and the "
        "tokenizer of bert-base-uncased",
        "save_file(torch.load('ImageReward.pt', weights_only=True), OUT)",
    )
    folder.require_weights()
    tensors = folder.tensors()
    try:
        vision, text, head = _vision(folder, tensors), _text(folder, tensors), _linear(tensors)
    except KeyError as missing:
        raise folder.refusal(f"there is no tensor {missing}") from missing
    prepare = read_preparation(folder, Preparation.like_clip(int(vision.config.image_size)))
    vision, text, head = (at_rest(part, device) for part in (vision, text, head))
    return _Reward(vision, text, head, (folder.tokenizer(BertTokenizer), prepare))


def _vision(folder: EncoderFolder, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - a BlipVisionModel
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, _, patch = tensors[f"{_VISION}patch_embed.proj.weight"].shape
    positions = tensors[f"{_VISION}pos_embed"].shape[1]
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors[f"{_VISION}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(tensors, f"{_VISION}blocks."),
        num_attention_heads=width // _WIDTH,
        patch_size=patch,
        image_size=patch * int((positions - 1) ** 0.5),
        layer_norm_eps=1e-6,  # of this vision transformer; transformers would take 1e-5
    )
    model = BlipVisionModel(config)
    own = {name.removeprefix(_VISION): tensor for name, tensor in tensors.items() if name.startswith(_VISION)}
    folder.filled(model, {_renamed(name): tensor for name, tensor in own.items()}, part="vision transformer")
    return model


def _renamed(name: str) -> str:
    """Returns transformers' name of a weight of the vision transformer."""
    head, dot, rest = name.partition(".")
    if head != "blocks":
        module, leaf_dot, leaf = name.rpartition(".")
        return _RENAMED.get(name, f"{_RENAMED.get(module, module)}{leaf_dot}{leaf}")
    number, _, inner = rest.partition(".")
    module, _, leaf = inner.rpartition(".")
    return f"{_RENAMED[head]}{dot}{number}.{_RENAMED.get(module, module)}.{leaf}"


def _text(folder: EncoderFolder, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - a BlipTextModel
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words, width = tensors[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=tensors[f"{_VISION}patch_embed.proj.weight"].shape[0],
        intermediate_size=tensors[f"{_TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(tensors, f"{_TEXT}encoder.layer."),
        num_attention_heads=width // _WIDTH,
        max_position_embeddings=tensors[f"{_TEXT}embeddings.position_embeddings.weight"].shape[0],
        pad_token_id=0,
        is_decoder=True,  # gives it cross attention; it is called as an encoder all the same
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    own = {name.removeprefix(_TEXT): tensor for name, tensor in tensors.items() if name.startswith(_TEXT)}
    own.pop("embeddings.position_ids", None)  # numbers from 0 on, which older versions saved
    folder.filled(model, own, part="text encoder")
    return model


def _linear(tensors: Mapping[str, Tensor]) -> nn.Module:
    layers = []
    for number in _LINEAR:
        weight, bias = (tensors[f"{_HEAD}{number}.{leaf}"] for leaf in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(layer)
    return nn.Sequential(*layers)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})


ENCODER = EncoderKind(
    name="imagereward",
    summary="ImageReward: preference for a picture given its prompt",
    reference="arXiv 2304.05977",
    open=_open,
)
