from __future__ import annotations

import re

import pytest

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_pair import correspondence, without_home

BLOCK = re.compile(r"(.*)\.transformer_blocks\.(\d+)\.(.*)")


def known(name: str) -> BaseModel:
    return next(base for base in known_bases() if base.name == name)


def fed(source: str, target: str, component: str = "unet") -> dict[str, str]:
    """Returns path -> path of the source, for the sites of a component that have one."""
    found = correspondence(known(source), known(target))
    pairs = ((site, origin) for site, origin in found.items() if site.component == component)
    return {site.path: origin.path for site, origin in pairs if isinstance(origin, Site)}


def other_shapes(source: str, target: str) -> set[str]:
    """Returns the paths of the U-Net's target sites whose source has another shape."""
    here, there = known(source).sites, known(target).sites
    pairs = fed(source, target).items()
    return {path for path, origin in pairs if here[Site("unet", origin)] != there[Site("unet", path)]}


@pytest.mark.parametrize(
    ("source", "target", "with_source", "without", "homeless"),
    [
        ("sdxl", "ssd-1b", 429, 0, 365),
        ("sdxl", "segmind-vega", 239, 0, 555),
        ("ssd-1b", "segmind-vega", 239, 0, 190),
        ("ssd-1b", "sdxl", 429, 365, 0),
        ("segmind-vega", "sdxl", 239, 555, 0),
        ("sd1.5", "bk-sdm-base", 182, 0, 100),
        ("sd1.5", "bk-sdm-small", 164, 0, 118),
        ("sd1.5", "bk-sdm-tiny", 151, 0, 131),
        ("bk-sdm-tiny", "sd1.5", 151, 131, 0),
        ("bk-sdm-base", "bk-sdm-tiny", 151, 0, 31),
        ("sd1.5", "sdxl", 202, 592, 80),
        ("sdxl", "sd1.5", 202, 80, 592),
        ("sd1.5", "sd2.1", 282, 0, 0),
        ("sd1.5", "sd1.5-inpainting", 282, 0, 0),
    ],
)
def test_so_many_modules_of_the_u_net_have_a_source(
    source: str, target: str, with_source: int, without: int, homeless: int
) -> None:
    found = fed(source, target)
    assert len(found) == with_source
    assert sum(site.component == "unet" for site in known(target).sites) - len(found) == without
    assert sum(site.component == "unet" for site in without_home(known(source), known(target))) == homeless


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sdxl", "ssd-1b"),
        ("sdxl", "segmind-vega"),
        ("ssd-1b", "segmind-vega"),
        ("ssd-1b", "sdxl"),
        ("sd1.5", "bk-sdm-base"),
        ("sd1.5", "bk-sdm-small"),
        ("sd1.5", "bk-sdm-tiny"),
        ("bk-sdm-small", "sd1.5"),
    ],
)
def test_where_blocks_were_removed_every_shape_agrees(source: str, target: str) -> None:
    assert other_shapes(source, target) == set()


def test_between_sd1_and_sd2_only_text_states_and_projections_differ_in_shape() -> None:
    roles = {path.rpartition("attentions.")[2].partition(".")[2] for path in other_shapes("sd1.5", "sd2.1")}
    block = "transformer_blocks.0.attn2"
    assert roles == {"proj_in", "proj_out", f"{block}.to_k", f"{block}.to_v"}


@pytest.mark.parametrize(
    ("source", "target"),
    [("sdxl", "ssd-1b"), ("sdxl", "segmind-vega"), ("ssd-1b", "sdxl"), ("sd1.5", "sdxl"), ("sdxl", "sd1.5")],
)
def test_transformer_blocks_stay_in_order_and_in_one_attention(source: str, target: str) -> None:
    pairs: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for path, origin in fed(source, target).items():
        there, here = BLOCK.fullmatch(path), BLOCK.fullmatch(origin)
        assert (there is None) == (here is None)
        if there and here:
            assert there[3] == here[3]
            pairs.setdefault((there[1], there[3]), []).append((int(there[2]), int(here[2]), here[1]))
    assert pairs
    for found in pairs.values():
        found.sort()
        origins = [origin for _, origin, _ in found]
        assert origins == sorted(set(origins))
        assert len({attention for _, _, attention in found}) == 1


def test_attentions_of_ssd_1b_that_kept_their_depth_are_matched_by_number() -> None:
    found = fed("sdxl", "ssd-1b")
    for attention in ("down_blocks.1.attentions.0", "up_blocks.0.attentions.2", "up_blocks.1.attentions.0"):
        own = {path: origin for path, origin in found.items() if path.startswith(attention)}
        assert own
        assert own == {path: path for path in own}


def test_shortened_attentions_of_ssd_1b_are_spread_over_those_of_sdxl() -> None:
    found = fed("sdxl", "ssd-1b")
    stem, role = "down_blocks.2.attentions.1.transformer_blocks", "attn1.to_q"
    assert [found[f"{stem}.{n}.{role}"] for n in range(4)] == [f"{stem}.{n}.{role}" for n in (0, 3, 6, 9)]
    assert found["up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q"].endswith("blocks.0.attn1.to_q")


@pytest.mark.parametrize(
    ("target", "path", "origin"),
    [
        ("bk-sdm-base", "down_blocks.1.attentions.0.proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("bk-sdm-base", "up_blocks.0.resnets.1.conv1", "up_blocks.0.resnets.2.conv1"),
        ("bk-sdm-small", "up_blocks.3.attentions.1.proj_in", "up_blocks.3.attentions.2.proj_in"),
        ("bk-sdm-small", "up_blocks.3.attentions.0.proj_in", "up_blocks.3.attentions.0.proj_in"),
        ("bk-sdm-tiny", "up_blocks.0.attentions.1.proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("bk-sdm-tiny", "up_blocks.2.resnets.0.conv1", "up_blocks.3.resnets.0.conv1"),
        ("bk-sdm-tiny", "up_blocks.1.upsamplers.0.conv", "up_blocks.2.upsamplers.0.conv"),
        ("sdxl", "up_blocks.0.attentions.2.proj_out", "up_blocks.1.attentions.2.proj_out"),
        ("sdxl", "up_blocks.1.resnets.2.conv_shortcut", "up_blocks.2.resnets.2.conv_shortcut"),
        ("sdxl", "up_blocks.2.resnets.1.conv2", "up_blocks.3.resnets.1.conv2"),
        ("sdxl", "up_blocks.1.upsamplers.0.conv", "up_blocks.2.upsamplers.0.conv"),
        ("sdxl", "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
         "mid_block.attentions.0.transformer_blocks.0.ff.net.2"),
        ("sdxl", "down_blocks.2.resnets.0.conv1", "down_blocks.2.resnets.0.conv1"),
        ("ssd-1b", "up_blocks.0.attentions.0.proj_in", "up_blocks.1.attentions.0.proj_in"),
    ],
)  # fmt: skip
def test_a_module_of_sd15_feeds_the_one_in_its_place(target: str, path: str, origin: str) -> None:
    assert fed("sd1.5", target)[path] == origin


def test_no_module_of_sdxl_is_fed_by_a_mere_namesake_on_the_way_up() -> None:
    """By accident 83 modules of SD1.5 and SDXL share name and shape, many of them in another place."""
    small, large = known("sd1.5").sites, known("sdxl").sites
    namesakes = [site for site, shape in large.items() if site.component == "unet" and small.get(site) == shape]
    assert len(namesakes) == 83
    found = correspondence(known("sd1.5"), known("sdxl"))
    assert not any(found[site] == site for site in found if site.path.startswith("up_blocks"))
    levels = {(p.split(".")[1], o.split(".")[1]) for p, o in fed("sd1.5", "sdxl").items() if p.startswith("up_")}
    assert levels == {("0", "1"), ("1", "2"), ("2", "3")}


def test_what_differs_in_shape_between_sd15_and_sdxl_is_text_states_and_projections() -> None:
    differing = other_shapes("sd1.5", "sdxl")
    assert len(differing) == 44
    assert {path.rpartition(".")[2] for path in differing} == {"proj_in", "proj_out", "to_k", "to_v"}
    assert all("attn2" in path for path in differing if path.endswith(("to_k", "to_v")))


def test_blocks_of_sdxl_beyond_the_first_have_no_source_in_sd15() -> None:
    found = correspondence(known("sd1.5"), known("sdxl"))
    assert found[Site("unet", "mid_block.attentions.0.transformer_blocks.7.attn1.to_q")] == "no-source-block"
    assert found[Site("unet", "add_embedding.linear_1")] == "no-such-site"
    homeless = without_home(known("sd1.5"), known("sdxl"))
    assert Site("unet", "down_blocks.0.attentions.0.proj_in") in homeless
    assert Site("unet", "up_blocks.3.attentions.2.proj_out") in homeless
    assert Site("unet", "down_blocks.2.downsamplers.0.conv") in homeless


def test_text_encoders_go_by_what_they_are() -> None:
    assert len(fed("sd1.5", "sdxl", "text_encoder")) == 72
    assert fed("sd1.5", "sdxl", "text_encoder_2") == {}
    assert fed("sd1.5", "sd2.1", "text_encoder") == {}
    assert len(fed("sdxl-refiner", "sdxl", "text_encoder_2")) == 193
    found = correspondence(known("flux1-dev"), known("sd3-medium"))
    third = [origin for site, origin in found.items() if site.component == "text_encoder_3"]
    assert {origin.component for origin in third if isinstance(origin, Site)} == {"text_encoder_2"}
    assert len(third) == 168
    assert {origin for site, origin in found.items() if site.component == "text_encoder_2"} == {"other-text-encoder"}
