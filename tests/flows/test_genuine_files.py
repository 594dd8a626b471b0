"""Adapters that nobody here made go through the whole job to other bases, and diffusers opens what comes out.

The U-Nets are built from the configurations that their makers published, without weights: what is asked is whether each
tensor of a file finds its module, in its shape, and whether it arrives there as it was.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from catalogs.ledger import open_reader
from lorax.adapter import Adapter, Site
from lorax.base_models import known_bases
from lorax.read import AdapterFiles, read_adapter
from tasks.bases import known_base
from tests.stand_ins.genuine_world import FILES, make_genuine_world
from tests.stand_ins.small_world import SmallWorld

pytestmark = pytest.mark.slow

SD: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
UNETS: dict[str, dict[str, Any]] = {
    "segmind/small-sd": {**SD, "layers_per_block": 1},
    "bk-sdm-small": {**SD, "layers_per_block": 1, "mid_block_type": None},
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
HOMES = {
    "bk-sdm-small": {"disney": 129, "processors": 72, "falcon": 232, "pokemon": 72},
    "segmind/small-sd": {"disney": 138, "processors": 80, "falcon": 250, "pokemon": 80},
    "sdxl": {"disney": 125, "processors": 66, "falcon": 248, "pokemon": 66},
}
"""How many of each adapter's sites have a home by the structural map, in shapes that agree."""
LOOKED_AT = 12


@dataclass(frozen=True)
class Moved:
    """A migration of the genuine files after its run."""

    world: SmallWorld
    known: str
    rows: dict[str, dict[str, Any]]


CASES = [
    ("bk-sdm-small", "kohya"),
    ("bk-sdm-small", "diffusers"),
    ("segmind/small-sd", "diffusers"),
    ("sdxl", "kohya"),
    ("sdxl", "diffusers"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case).replace("/", "-"))
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Moved:
    from flows.migrate import migrate

    known, dialect = request.param
    world = make_genuine_world(tmp_path_factory.mktemp("genuine"), known=known, dialect=dialect)
    migrate(migration=world.settings, data=world.data)
    rows = open_reader(world.data).rows(
        "SELECT states.name, states.state, states.reason, states.conversion_id, conversions.* EXCLUDE (conversion_id) "
        "FROM states LEFT JOIN conversions ON conversions.conversion_id = states.conversion_id"
    )
    return Moved(world, known, {str(row["name"]): row for row in rows})


def converted_file(moved: Moved, name: str) -> Path:
    [file] = (moved.world.data / "conversions" / moved.rows[name]["conversion_id"] / "files").iterdir()
    return file


def meta_unet(known: str) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[known])


def meta_text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))


def loader_for(known: str) -> Any:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

    return StableDiffusionXLLoraLoaderMixin if known == "sdxl" else StableDiffusionLoraLoaderMixin


def injected(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@dataclass(frozen=True)
class Loaded:
    """What a pipeline read from a file, what of it was put into the U-Net, and what peft found wrong with that."""

    keys: list[str]
    tensors: dict[str, torch.Tensor]
    told: Any


def load(file: Path, known: str, unet: Any, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Loads a file's U-Net part as a pipeline of diffusers does."""
    import peft

    calls: list[tuple[dict[str, torch.Tensor], Any]] = []
    real = peft.set_peft_model_state_dict

    def watched(model: Any, tensors: dict[str, torch.Tensor], *given: Any, **named: Any) -> Any:
        calls.append((dict(tensors), real(model, tensors, *given, **named)))
        return calls[-1][1]

    monkeypatch.setattr(peft, "set_peft_model_state_dict", watched)
    loader = loader_for(known)
    more = {"unet_config": unet.config} if known == "sdxl" else {}
    state, alphas, metadata = loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True, local_files_only=True, **more
    )
    unet.load_lora_adapter(state, network_alphas=alphas, prefix="unet", metadata=metadata, low_cpu_mem_usage=True)
    [(tensors, told)] = calls
    return Loaded(list(state), tensors, told)


def sites_of(adapter: Adapter, component: str) -> list[Site]:
    return sorted(site for site in adapter.updates if site.component == component)


def test_all_four_go_through_and_none_is_published(moved: Moved) -> None:
    assert sorted(moved.rows) == sorted(FILES)
    assert {(row["state"], row["reason"]) for row in moved.rows.values()} == {("rejected", "not-scored")}
    assert {name: row["sites_mapped"] for name, row in moved.rows.items()} == HOMES[moved.known]
    assert not moved.world.hub.exists()


@pytest.mark.parametrize("name", FILES)
def test_diffusers_loads_the_result_with_no_key_missing_or_unexpected(
    moved: Moved, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, unet = converted_file(moved, name), meta_unet(moved.known)
    ours = read_adapter(AdapterFiles(file), candidates=[known_base(moved.known)])

    with warnings.catch_warnings(action="error"):
        loaded = load(file, moved.known, unet, monkeypatch)

    assert loaded.told.unexpected_keys == []
    assert [key for key in loaded.told.missing_keys if "lora" in key] == []
    layers = injected(unet)
    assert sorted(layers) == [site.path for site in sites_of(ours, "unet")]
    assert len(loaded.tensors) == 2 * len(layers)
    assert {key.partition(".")[0] for key in loaded.keys} <= {"unet", "text_encoder"}
    for site in sites_of(ours, "unet")[:: max(1, len(layers) // LOOKED_AT)]:
        (scale,) = layers[site.path].scaling.values()
        up, down = (loaded.tensors[f"{site.path}.lora_{side}.weight"].flatten(1).float() for side in "BA")
        dense = ours.low_rank()[site].dense().flatten(1)
        torch.testing.assert_close(scale * up @ down, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["disney", "falcon"])
def test_transformers_loads_the_part_for_the_text_encoder(moved: Moved, name: str) -> None:
    file, encoder, loader = converted_file(moved, name), meta_text_encoder(), loader_for(moved.known)
    ours = read_adapter(AdapterFiles(file), candidates=[known_base(moved.known)])
    more = {"unet_config": meta_unet("sdxl").config} if moved.known == "sdxl" else {}
    state, alphas, metadata = loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True, local_files_only=True, **more
    )
    with warnings.catch_warnings(action="error"):
        loader.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=encoder, metadata=metadata, low_cpu_mem_usage=True
        )
    found = {f"text_model.{path.removeprefix('text_model.')}" for path in injected(encoder)}
    assert found == {site.path for site in sites_of(ours, "text_encoder")}


@pytest.mark.parametrize("name", FILES)
def test_the_share_that_is_lost_is_that_of_the_sites_that_are_named(moved: Moved, name: str) -> None:
    source = read_adapter(AdapterFiles(FILES[name]), candidates=known_bases())
    row = moved.rows[name]
    lost = {site["site"]: site["norm"] for site in json.loads(row["dropped_sites"])}
    assert len(lost) == len(source.updates) - row["sites_mapped"]
    squares = {str(site): update.norm() ** 2 for site, update in source.updates.items()}
    assert lost.keys() <= squares.keys()
    share = sum(squares[site] for site in lost) / sum(squares.values())
    assert row["dropped_norm_share"] == pytest.approx(share, rel=1e-3)
    page = (moved.world.data / "reports" / "latest.html").read_text()
    assert f"{share:.1%} of the norm is lost" in page
    assert all(f"<code>{site}</code>" in page for site in lost)
