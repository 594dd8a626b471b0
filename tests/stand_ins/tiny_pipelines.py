"""Makes tiny untrained pipelines of diffusers' own classes with the true structure of larger bases, saved as folders.

What a maker returns is the pipeline itself: the oracle of what lorax makes of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from lorax.adapter import Adapter, BaseVerdict, LowRank
from lorax.checkpoint import open_checkpoint
from lorax.picture_model import PictureModel
from tests.stand_ins.tiny_bases import WIDTH, WORDS, weight_of, write_clip_tokenizer

PROMPTS = ("a digit", "bold style, a digit")
SSD = {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": (1, 4),
    "reverse_transformer_layers_per_block": ((4, 1), (1, 1)),
}
"""What SSD-1B's U-Net has and SDXL's has not: no attention in the middle, blocks removed on the way up."""


def make_sdxl(folder: Path, *, seed: int, **unet: Any) -> StableDiffusionXLPipeline:
    """Writes a tiny SDXL; unet: settings of its U-Net that differ."""
    torch.manual_seed(seed)
    settings = {"transformer_layers_per_block": (1, 2), **unet}
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(clip_config(layers=2)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(layers=3, projection_dim=WIDTH)),
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        tokenizer_2=clip_tokenizer(folder / "tokenizer_2"),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            norm_num_groups=4,
            **settings,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    return saved(pipeline, folder)


def make_flux(folder: Path, *, seed: int, guidance_embeds: bool = True, **transformer: Any) -> FluxPipeline:
    """Writes a tiny Flux: dev with guidance_embeds, schnell without."""
    torch.manual_seed(seed)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=tiny_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(clip_config(layers=2)),
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        text_encoder_2=T5EncoderModel(T5Config(**t5_sizes())),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
            **transformer,
        ),
    )
    return saved(pipeline, folder)


def make_wan(folder: Path, *, seed: int, boundary: float | None = None, **transformer: Any) -> WanPipeline:
    """Writes a tiny Wan 2.1; with a boundary a tiny Wan 2.2 of two transformers."""
    torch.manual_seed(seed)
    first, second = (
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
            **transformer,
        )
        for _ in range(2)
    )
    pipeline = WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**t5_sizes())),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 1.0, 0.5, 2.0],
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        ),
        scheduler=UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, num_train_timesteps=1000
        ),
        transformer=first,
        transformer_2=second if boundary is not None else None,
        boundary_ratio=boundary,
    )
    return saved(pipeline, folder)


def make_ltx(folder: Path, *, seed: int, **vae: Any) -> LTXPipeline:
    """Writes a tiny LTX-Video; vae: settings of its VAE that differ."""
    torch.manual_seed(seed)
    four, five = {"block_out_channels": (8,) * 4}, {"layers_per_block": (1,) * 5}
    pipeline = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            **four,
            **{f"decoder_{name}": value for name, value in {**four, **five}.items()},
            **five,
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            patch_size=1,
            **vae,
        ),
        text_encoder=T5EncoderModel(T5Config(**t5_sizes())),
        tokenizer=t5_tokenizer(),
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        ),
    )
    return saved(pipeline, folder)


def later(pipeline: Any, folder: Path, *, seed: int, share: float = 0.05) -> Any:
    """Moves every weight of the denoisers and text encoders by `share` of its own size, and saves the base anew."""
    generator = torch.Generator().manual_seed(seed)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and name != "vae":
            for weight in part.parameters():
                step = torch.randn(weight.shape, generator=generator) * weight.detach().std(correction=0)
                weight.data.add_(share * step)
    return saved(pipeline, folder)


def t5_sizes() -> dict[str, int | str]:
    """Returns the settings of a tiny T5 of the version that these bases have."""
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    return {**sizes, "feed_forward_proj": "gated-gelu"}


def t5_tokenizer() -> T5Tokenizer:
    """Returns a tokenizer of T5's kind that knows the letters of WORDS and reads sixteen tokens."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in ("▁", *letters))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=16)


def saved(pipeline: Any, folder: Path) -> Any:
    """Saves a pipeline as safetensors, and returns it without its progress bar, nothing dropped out."""
    pipeline.save_pretrained(folder)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_vae(**settings: Any) -> AutoencoderKL:
    """Returns a VAE that halves pictures in height and width."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "scaling_factor": 0.5,
            **settings,
        }
    )


def clip_config(*, layers: int, **settings: Any) -> CLIPTextConfig:
    """Returns the settings of a tiny CLIP text encoder that reads twelve tokens."""
    return CLIPTextConfig(
        vocab_size=600,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **settings,
    )


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes a tokenizer of letters, and returns it."""
    write_clip_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def adapter_for(folder: Path, *, components: tuple[str, ...], seed: int = 0, strength: float = 0.5) -> Adapter:
    """Returns a random adapter of rank 2 on every site of these components of a base."""
    base = open_checkpoint(folder, name=folder.name).base
    generator = torch.Generator().manual_seed(seed)
    updates = {
        site: LowRank(
            up=torch.randn(shape.out_features, 2, generator=generator) * strength / shape.out_features**0.5,
            down=torch.randn(2, shape.columns, generator=generator) / shape.columns**0.5,
            scale=0.5,
            kernel=shape.kernel,
        )
        for site, shape in sorted(base.sites.items())
        if site.component in components
    }
    verdict = BaseVerdict(base.name, base.family, base.version, ("made for it",))
    return Adapter(updates, "diffusers", ("lora",), torch.float32, {}, ("bold style",), verdict, f"{seed:064x}", ())


def predicted(model: PictureModel[Any], *, guidance: float = 1.0) -> Tensor:
    """Returns what a model says of two noisy latents under two prompts and noise levels."""
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    timesteps = torch.tensor([100, 700], device=model.device)
    with torch.no_grad():
        return model.predict(latents, timesteps, states=model.encode(PROMPTS), guidance=guidance).cpu()


def merge(model: PictureModel[Any], adapter: Adapter) -> None:
    """Adds an adapter to the weights themselves."""
    for site, update in adapter.updates.items():
        weight_of(model, site).data.add_(update.dense())
