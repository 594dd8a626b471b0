"""hpsv2: how much people would prefer a picture, by a CLIP that learnt from their choices.

HPS v2: Wu et al., arXiv 2306.09341; PickScore: Kirstain et al., arXiv 2305.01569. Both are a CLIP ViT-H/14 trained on;
the preference is exp(logit_scale)·cos(picture, prompt). Weights may carry transformers' names or open_clip's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lorax.clip_encoder import ClipEncoder
from lorax.clip_names import both_towers
from lorax.encoder import EncoderKind
from lorax.encoder_folder import EncoderFolder, at_rest
from lorax.encoder_pixels import Preparation, read_preparation

_OPEN_CLIP = "visual.conv1.weight"
"""A tensor that only open_clip's names have."""


class _Taste(ClipEncoder):
    asks = "preference"

    def preferences(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns exp(logit_scale)·cosine (n,); HPS v2 is given as cosine or percent, which differ by a factor."""
        scale = float(self.model.logit_scale.exp())
        return scale * (self.pictures(pixels) * self.words(prompts)).sum(1)


def _open(path: Path, device: str) -> ClipEncoder:
    from transformers import AutoTokenizer

    folder = EncoderFolder(
        path,
        "hpsv2",
        "a folder with config.json and tokenizer of laion/CLIP-ViT-H-14-laion2B-s32B-b79K and the weights of HPS v2 "
        "or PickScore, as safetensors, in open_clip's names or transformers'",
        "save_file(torch.load(FILE, weights_only=True)['state_dict'], OUT)",
    )
    folder.require_weights()
    folder.require_type({"clip"})
    model = _model(folder, device)
    side = int(model.config.vision_config.image_size)
    return _Taste(model, folder.tokenizer(AutoTokenizer), read_preparation(folder, Preparation.like_clip(side)))


def _model(folder: EncoderFolder, device: str) -> Any:  # noqa: ANN401 - a CLIPModel
    from transformers import CLIPConfig, CLIPModel

    if not folder.holds(_OPEN_CLIP):
        return folder.model(CLIPModel, device)
    model = CLIPModel(CLIPConfig(**folder.config()))
    try:
        named = both_towers(folder.tensors())
    except KeyError as missing:
        raise folder.refusal(f"there is no tensor {missing}") from missing
    folder.filled(model, named, part="CLIP")
    return at_rest(model, device)


ENCODER = EncoderKind(
    name="hpsv2",
    summary="HPS v2 or PickScore: preference for a picture given its prompt",
    reference="arXiv 2306.09341, arXiv 2305.01569",
    open=_open,
)
