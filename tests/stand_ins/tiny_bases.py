"""Makes tiny untrained Stable-Diffusion-shaped bases (U-Net, CLIP text encoder, tokenizer, scheduler) and adapters.

True module names, real diffusers classes, widths of 8 and 16: enough for every rule that does not depend on training.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site
from lorax.base_model import BaseModel
from lorax.diffusion_model import DiffusionModel, load_diffusion_model

WORDS = ("a", "handwritten", "digit", "bold", "style", "zero", "one", "two", ",")
WIDTH = 16


def make_base(folder: Path, *, seed: int) -> Path:
    """Writes a base folder with weights drawn from `seed` and returns it."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=600,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet.save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    write_clip_tokenizer(folder / "tokenizer")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def nudged(folder: Path, out: Path, *, seed: int, share: float = 0.05) -> Path:
    """Writes a later checkpoint of the same lineage: every weight moved by `share` of its own size."""
    model = load_diffusion_model(folder)
    generator = torch.Generator().manual_seed(seed)
    for part in (model.unet, model.text_encoder):
        for weight in part.parameters():
            step = torch.randn(weight.shape, generator=generator) * weight.detach().std(correction=0)
            weight.data.add_(share * step)
    model.unet.save_pretrained(out / "unet")
    model.text_encoder.save_pretrained(out / "text_encoder")
    for name in ("scheduler", "tokenizer"):
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in (folder / name).iterdir():
            (out / name / file.name).write_bytes(file.read_bytes())
    (out / "model_index.json").write_bytes((folder / "model_index.json").read_bytes())
    return out


def make_adapter(
    base: BaseModel, *, seed: int = 0, rank: int = 2, strength: float = 1.0, match: str = "attn"
) -> Adapter:
    """Returns a random adapter on every site whose path holds `match`."""
    generator = torch.Generator().manual_seed(seed)
    updates = {
        site: LowRank(
            up=torch.randn(shape.out_features, rank, generator=generator) * strength / shape.out_features**0.5,
            down=torch.randn(rank, shape.columns, generator=generator) / shape.columns**0.5,
            scale=0.5,
            kernel=shape.kernel,
        )
        for site, shape in sorted(base.sites.items())
        if match in site.path
    }
    verdict = BaseVerdict(base.name, base.family, base.version, ("made for it",))
    return Adapter(updates, "kohya", ("lora",), torch.float16, {}, ("bold style",), verdict, f"{seed:064x}", ())


def weight_of(model: DiffusionModel, site: Site) -> torch.Tensor:
    """Returns the weight of a site's module."""
    module = model.module(site)
    assert module is not None
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def write_clip_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of CLIP's kind that knows the letters of WORDS."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({letter for word in WORDS for letter in word})
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 12,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
