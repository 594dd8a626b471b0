"""An encoder of two towers, one for pictures and one for words, whose points lie in one space: CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lorax.encoder import Encoder
from lorax.encoder_folder import in_parts
from lorax.encoder_pixels import Preparation


class ClipEncoder(Encoder):
    """A CLIPModel or SiglipModel of transformers with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, prepare: Preparation) -> None:  # noqa: ANN401 - of transformers
        self.model, self._tokenizer, self._prepare = model, tokenizer, prepare

    def pictures(self, pixels: Tensor) -> Tensor:
        """Returns projected points (n, d) of length 1."""
        return in_parts(pixels, lambda part, _rows: normalize(self._seen(part)))

    @torch.no_grad()
    def words(self, prompts: Sequence[str]) -> Tensor:
        """Returns points (n, d) of length 1 in the space of `pictures`. Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        # SigLIP was trained without a mask, on texts padded to full length; CLIP never looks at what comes after.
        length = int(self.model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(
            distinct, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        found = _points(self.model.get_text_features(input_ids=tokens.to(self.model.device)))
        rows = [distinct.index(prompt) for prompt in prompts]
        return normalize(found).float().cpu()[rows]

    def _seen(self, pixels: Tensor) -> Tensor:
        prepared = self._prepare(pixels.to(self.model.device))
        return _points(self.model.get_image_features(pixel_values=prepared))


def _points(found: Any) -> Tensor:  # noqa: ANN401 - a tensor before transformers 5, an output object since
    points: Tensor = getattr(found, "pooler_output", found)
    return points
