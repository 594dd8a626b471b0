"""clip: CLIP and SigLIP, which see pictures and words in one space.

Radford et al., arXiv 2103.00020; Zhai et al., arXiv 2303.15343. The cosine of a picture and its prompt is CLIP-T,
that of two pictures CLIP-I (Ruiz et al., arXiv 2208.12242).
"""

from __future__ import annotations

from pathlib import Path

from lorax.clip_encoder import ClipEncoder
from lorax.encoder import EncoderKind
from lorax.encoder_folder import EncoderFolder
from lorax.encoder_pixels import Preparation, read_preparation

_EVEN = (0.5, 0.5, 0.5)
"""Mean and spread of brightness, by channel, that SigLIP was trained with; both sides are resized and nothing cut."""


def _open(path: Path, device: str) -> ClipEncoder:
    from transformers import AutoModel, AutoTokenizer

    folder = EncoderFolder(
        path,
        "clip",
        "a transformers folder of a CLIPModel or SiglipModel with its tokenizer",
        "from transformers import AutoModel; AutoModel.from_pretrained(FOLDER).save_pretrained(OUT)",
    )
    folder.require_weights()
    kind = folder.require_type({"clip", "siglip"})
    model = folder.model(AutoModel, device)
    side = int(model.config.vision_config.image_size)
    usual = Preparation.like_clip(side) if kind == "clip" else Preparation((side, side), None, _EVEN, _EVEN)
    return ClipEncoder(model, folder.tokenizer(AutoTokenizer), read_preparation(folder, usual))


ENCODER = EncoderKind(
    name="clip",
    summary="CLIP or SigLIP: likeness of pictures, and agreement with the prompt",
    reference="arXiv 2103.00020, arXiv 2303.15343",
    open=_open,
)
