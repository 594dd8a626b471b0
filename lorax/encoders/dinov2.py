"""dinov2: pictures alone, seen by what is in them and not by how a text would tell it.

Oquab et al., arXiv 2304.07193; registers: Darcet et al., arXiv 2309.16588. The point is the class token after the last
norm, which the model itself gives for a picture and which its authors search for near pictures with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from lorax.encoder import Encoder, EncoderKind
from lorax.encoder_folder import EncoderFolder, in_parts
from lorax.encoder_pixels import Preparation, read_preparation

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_DEFAULT = Preparation(256, (224, 224), _MEAN, _STD)
"""What facebook/dinov2-* say in their preprocessor_config.json."""


class _Dino(Encoder):
    def __init__(self, model: Any, prepare: Preparation) -> None:  # noqa: ANN401 - a model of transformers
        self._model, self._prepare = model, prepare

    def pictures(self, pixels: Tensor) -> Tensor:
        """Returns class tokens (n, d) of length 1."""
        return in_parts(pixels, lambda part, _rows: normalize(self._seen(part)))

    def _seen(self, pixels: Tensor) -> Tensor:
        token: Tensor = self._model(pixel_values=self._prepare(pixels.to(self._model.device))).last_hidden_state[:, 0]
        return token


def _open(path: Path, device: str) -> Encoder:
    from transformers import AutoModel

    folder = EncoderFolder(
        path,
        "dinov2",
        "a transformers folder of a Dinov2Model, with registers or without",
        "from transformers import AutoModel; AutoModel.from_pretrained(FOLDER).save_pretrained(OUT)",
    )
    folder.require_weights()
    folder.require_type({"dinov2", "dinov2_with_registers"})
    return _Dino(folder.model(AutoModel, device), read_preparation(folder, _DEFAULT))


ENCODER = EncoderKind(
    name="dinov2",
    summary="DINOv2: likeness of pictures",
    reference="arXiv 2304.07193",
    open=_open,
)
