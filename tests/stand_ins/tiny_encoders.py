"""Makes a tiny untrained encoder folder of every kind, laid out as docs/encoders.md wants true ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
)

from tests.stand_ins.original_blip import Reward
from tests.stand_ins.original_clip import OpenClip, StyleModel
from tests.stand_ins.tiny_bases import write_clip_tokenizer

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "digit", "bold", "style", "handwritten", "one", ",")
WORDS, LENGTH = 600, 12
"""Size of the vocabulary of the tiny CLIPs, and most tokens that they read."""
SIDE = 16


def preprocessor(side: int, **changes: object) -> dict[str, object]:
    """Returns what an image processor's file says."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.25],
        **changes,
    }


def write_preprocessor(folder: Path, side: int = SIDE, **changes: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(side, **changes)))


def clip_config(*, activation: str = "quick_gelu") -> CLIPConfig:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPConfig(
        vision_config={**shape, "image_size": SIDE, "patch_size": 8, "hidden_act": activation},
        text_config={
            **shape,
            "vocab_size": WORDS,
            "max_position_embeddings": LENGTH,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "hidden_act": activation,
        },
        projection_dim=24,
    )


def make_clip(folder: Path, *, seed: int = 0) -> CLIPModel:
    """Writes a CLIPModel as transformers saves it."""
    torch.manual_seed(seed)
    model = lively(CLIPModel(clip_config()).eval())
    model.save_pretrained(folder)
    write_clip_tokenizer(folder)
    write_preprocessor(folder)
    return model


def make_siglip(folder: Path) -> SiglipModel:
    """Writes a SiglipModel as transformers saves it, without the settings of its image processor."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**shape, "image_size": SIDE, "patch_size": 8},
        text_config={**shape, "vocab_size": WORDS, "max_position_embeddings": LENGTH, "projection_size": 32},
    )
    model = SiglipModel(config).eval()
    model.save_pretrained(folder)
    write_clip_tokenizer(folder)
    return model


def make_dinov2(folder: Path, *, registers: bool = False) -> nn.Module:
    """Writes a Dinov2Model as transformers saves it."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape))
        if registers
        else Dinov2Model(Dinov2Config(**shape))
    )
    lively(model.eval()).save_pretrained(folder)
    write_preprocessor(folder, 28)
    return model


def make_csd(folder: Path) -> StyleModel:
    """Writes a CSD checkpoint under its own names."""
    torch.manual_seed(0)
    model = StyleModel().eval()
    save_original(model, folder)
    return model


def make_hpsv2(folder: Path) -> OpenClip:
    """Writes an open_clip checkpoint beside the configuration and tokenizer of a CLIPModel."""
    torch.manual_seed(0)
    model = OpenClip(words=WORDS, length=LENGTH, side=SIDE).eval()
    save_original(model, folder)
    clip_config(activation="gelu").save_pretrained(folder)
    write_clip_tokenizer(folder)
    return model


def make_imagereward(folder: Path) -> Reward:
    """Writes an ImageReward checkpoint under its own names beside a tokenizer of BERT's kind."""
    torch.manual_seed(0)
    model = Reward(words=len(VOCABULARY)).eval()
    save_original(model, folder)
    bert_tokenizer().save_pretrained(folder)
    return model


def bert_tokenizer() -> BertTokenizer:
    """Returns a tokenizer that knows VOCABULARY."""
    return BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)})


def save_original(model: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


def lively(model: nn.Module) -> nn.Module:
    """Returns a model whose fresh weights, small as they are, were made large enough for pictures to matter."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(5)
    return model


MAKERS: dict[str, Callable[[Path], nn.Module]] = {
    "clip": make_clip,
    "csd": make_csd,
    "dinov2": make_dinov2,
    "hpsv2": make_hpsv2,
    "imagereward": make_imagereward,
}
