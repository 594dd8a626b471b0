"""The names of generative-models, compared with what diffusers makes of a checkpoint that bears them."""

from __future__ import annotations

from collections import defaultdict

import pytest

from lorax.base_model import BaseModel
from lorax.base_models import FAMILIES
from lorax.inventories.sgm import sgm_names
from lorax.inventories.unet import UNet
from lorax.inventories.unet_pipelines import pipeline_base
from lorax.naming import own_names
from tests.lorax.base_models.unet_configs import FAMILY_OF, PIPELINES


def base_of(version: str) -> BaseModel:
    (base,) = [base for base in FAMILIES[FAMILY_OF[version]].versions() if base.version == version]
    return base


def parameters_by_sgm_name(base: BaseModel) -> dict[str, str]:
    """Returns the canonical name of each parameter of the U-Net by its name in generative-models."""
    endings = defaultdict(list)
    for site in (*base.sites, *base.tables):
        endings[site].append("weight")
    for site in base.vectors:
        module, _, ending = site.path.rpartition(".")
        endings[type(site)(site.component, module)].append(ending)
    return {
        f"{module.path}.{ending}": f"{module.parts[0].site.path}.{ending}"
        for module in sgm_names(base)
        if module.component == "unet"
        for ending in endings[module.parts[0].site]
    }


@pytest.mark.parametrize("version", PIPELINES)
def test_diffusers_turns_every_name_back_into_its_own(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    base, config = base_of(version), PIPELINES[version]["unet"]
    names = parameters_by_sgm_name(base)
    checkpoint = {f"model.diffusion_model.{sgm}": own for sgm, own in names.items()}

    converted = convert_ldm_unet_checkpoint(checkpoint, config)

    assert converted == {own: own for own in names.values()}
    unet = [site for site in (*base.sites, *base.tables, *base.vectors) if site.component == "unet"]
    assert len(names) == len(unet)


@pytest.mark.parametrize(
    ("version", "sgm", "own"),
    [
        ("sdxl", "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
         "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("sdxl", "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
         "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj"),
        ("sdxl", "input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("sdxl", "middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
        ("sdxl", "output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ("sdxl", "output_blocks.8.0.skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("sdxl", "label_emb.0.2", "add_embedding.linear_2"),
        ("sd1.5", "output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
        ("sd1.5", "output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
        ("sd1.5", "input_blocks.11.0.in_layers.2", "down_blocks.3.resnets.1.conv1"),
        ("sd1.5", "out.2", "conv_out"),
        ("sd2.1", "input_blocks.1.1.norm", "down_blocks.0.attentions.0.norm"),
        ("ssd-1b", "middle_block.0.emb_layers.1", "mid_block.resnets.0.time_emb_proj"),
    ],
)  # fmt: skip
def test_known_names_are_given(version: str, sgm: str, own: str) -> None:
    base = base_of(version)

    names = {module.path: module.parts[0].site.path for module in sgm_names(base) if module.component == "unet"}

    assert names[sgm] == own


def test_text_encoders_keep_the_names_of_transformers() -> None:
    base = base_of("sdxl")

    paths = {(module.component, module.path) for module in sgm_names(base) if module.component != "unet"}

    assert ("text_encoder", "text_model.encoder.layers.0.mlp.fc1") in paths
    assert ("text_encoder", "encoder.layers.0.mlp.fc1") in paths
    assert ("text_encoder_2", "text_projection") in paths


def test_extra_embeddings_are_named_as_labels() -> None:
    plain = UNet(channels=4, widths=(8, 16), depths=(1, 0), middle_depth=1, layers=1, context=12, class_width=24)
    base = pipeline_base("odd", "stable-diffusion", plain, (), ())

    names = {module.parts[0].site.path: module.path for module in sgm_names(base)}

    assert names["class_embedding.linear_1"] == "label_emb.0.0"
    assert len(names) == len({module.path for module in own_names(base)})
