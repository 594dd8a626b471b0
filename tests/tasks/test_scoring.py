from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorax.gate import GateSettings
from lorax.score_settings import ScoreSettings
from tasks.bases import open_base
from tasks.conversion import convert_shard
from tasks.convert import convert  # noqa: F401 - the tasks import without an API
from tasks.scoring import Scored, ScoreItem, gate_for, score_key, score_shard
from tests.tasks.conftest import PROBE, Steps
from tests.tasks.test_conversion import as_dora
from tests.tasks.test_conversion import items_of as items_to_convert

GATE = {"divergence_gain": -9.0, "margin_over_random": -9.0, "allowed_under_copy": 9.0}


def items_of(steps: Steps, *, card: dict[str, Any] | None = None) -> list[ScoreItem]:
    return [
        ScoreItem(
            entry_key=key,
            entry=steps.found[key]["entry"],
            files=steps.fetched[key]["files"],
            conversion_id=str(record["conversion_id"]),
            card=card,
        )
        for key, record in steps.converted.items()
    ]


def score(steps: Steps, items: list[ScoreItem], images: Path, *, gate: dict[str, float] | None = None) -> list[Scored]:
    return score_shard(
        items,
        pair=steps.pair,
        bases=steps.bases,
        probe=PROBE,
        gate=gate or GATE,
        conversions=str(steps.conversions),
        images=str(images),
    )


@pytest.fixture(scope="module")
def scored(steps: Steps) -> list[Scored]:
    return score(steps, items_of(steps), steps.data / "images")


def test_every_conversion_has_figures_beside_copy_random_and_zero(scored: list[Scored]) -> None:
    for record in scored:
        assert record["scored"] is not None
        assert set(record["scored"]["figures"]) == {"converted", "copy", "random", "zero"}
        assert set(record["scored"]["figures"]["converted"]["divergence_gain"]) == {"value", "low", "high"}


def test_what_is_scored_is_the_file_that_would_be_published(scored: list[Scored]) -> None:
    """The method is `copy`, so the conversion, written and read back, has to equal the copy that was never written."""
    for record in scored:
        assert record["scored"] is not None
        own, copied = (record["scored"]["figures"][name]["divergence_gain"]["value"] for name in ("converted", "copy"))
        assert own == pytest.approx(copied, abs=1e-3)


def test_the_figures_survive_the_ledgers_json(scored: list[Scored]) -> None:
    assert json.loads(json.dumps(scored[0]["scored"])) == scored[0]["scored"]


def test_each_has_a_grid_with_one_line_of_tiles_per_row(scored: list[Scored], steps: Steps) -> None:
    for record in scored:
        assert record["scored"] is not None
        assert record["scored"]["image_rows"] == [
            "source",
            "source+adapter",
            "target",
            "target+copy",
            "target+converted",
        ]
        with Image.open(steps.data / record["scored"]["images"]) as image:
            assert image.size == (50 * len(record["scored"]["image_prompts"]), 50 * 5)


def test_trigger_words_of_the_sidecar_are_in_the_prompts(scored: list[Scored]) -> None:
    assert scored[0]["scored"] is not None
    first, second = scored[0]["scored"]["image_prompts"]
    assert "bold style" in first
    assert "a digit" in first
    assert "a handwritten one" in second


def test_the_gate_decides_on_the_figures(scored: list[Scored], steps: Steps) -> None:
    assert all(record["judged"] and record["judged"]["passed"] for record in scored)
    strict = score(steps, items_of(steps, card=scored[0]["scored"]), steps.data, gate={**GATE, "divergence_gain": 1.1})
    assert [record["judged"] and record["judged"]["passed"] for record in strict] == [False] * len(strict)
    assert strict[0]["judged"] is not None
    assert strict[0]["judged"]["reasons"][0][0] == "gate-divergence-gain"


def test_figures_that_come_from_weights_stand_beside_the_others(scored: list[Scored]) -> None:
    assert scored[0]["scored"] is not None
    own = scored[0]["scored"]["figures"]["converted"]
    assert own["missing"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert own["kept_norm"]["value"] == pytest.approx(1.0, abs=1e-3)
    assert "missing" not in scored[0]["scored"]["figures"]["copy"]


def test_a_verdict_says_by_which_thresholds_it_was_found(scored: list[Scored], steps: Steps) -> None:
    assert scored[0]["judged"] is not None
    assert scored[0]["judged"]["outcome"] == "pass"
    gate = scored[0]["judged"]["gate"]
    assert (gate["divergence_gain"], gate["allowed_under_copy"]) == (-9.0, 9.0)
    assert gate["most"]["missing"] > 0

    [first, *_] = score(steps, items_of(steps, card=scored[0]["scored"]), steps.data, gate={})
    assert first["judged"] is not None
    assert None not in first["judged"]["gate"].values()


def test_a_family_has_its_own_thresholds_and_the_others_from_all(steps: Steps) -> None:
    target = open_base(steps.bases[1]).base
    common = {"divergence_gain": 0.4, "margin_over_random": 0.2, "least": {"effect_cosine": 0.1}}
    special = {"divergence_gain": 0.1, "margin_over_random": None, "least": {}, "most": {}}
    own = gate_for({**common, "families": {target.family: special}}, target)
    other = gate_for({**common, "families": {"another": special}}, target)
    assert own == GateSettings(0.1, 0.2, least={"effect_cosine": 0.1})
    assert other == GateSettings(0.4, 0.2, least={"effect_cosine": 0.1})


def test_a_verdict_in_doubt_is_looked_at_again_while_there_are_samples_left(scored: list[Scored], steps: Steps) -> None:
    assert scored[0]["scored"] is not None
    card = json.loads(json.dumps(scored[0]["scored"]))
    gain = card["figures"]["converted"]["divergence_gain"]
    edge = {**GATE, "divergence_gain": (gain["low"] + gain["high"]) / 2}
    few = {**card, "samples": PROBE["samples"]}
    all_of_them = {**card, "samples": PROBE["samples"] << ScoreSettings().rounds}
    one = items_of(steps)[:1]

    [again] = score(steps, [{**one[0], "card": few}], steps.data / "images", gate=edge)
    [settled] = score(steps, [{**one[0], "card": all_of_them}], steps.data / "images", gate=edge)

    assert again["scored"] is not None
    assert again["scored"]["samples"] > PROBE["samples"]
    assert settled["scored"] is None
    assert settled["judged"] is not None
    assert (settled["judged"]["passed"], settled["judged"]["outcome"]) == (False, "uncertain")


def test_figures_of_an_earlier_run_are_judged_without_running_a_model(
    scored: list[Scored], steps: Steps, tmp_path: Path
) -> None:
    again = score(steps, items_of(steps, card=scored[0]["scored"]), tmp_path)
    assert [record["scored"] for record in again] == [None] * len(again)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_the_ledger_holds_as_null_is_no_number_and_does_not_pass(
    scored: list[Scored], steps: Steps
) -> None:
    assert scored[0]["scored"] is not None
    card = json.loads(json.dumps(scored[0]["scored"]))
    card["figures"]["converted"]["divergence_gain"]["value"] = None
    [first, *_] = score(steps, items_of(steps, card=card), steps.data)
    assert first["judged"] is not None
    assert (first["judged"]["passed"], first["judged"]["reasons"][0][0]) == (False, "gate-non-finite")


def test_a_conversion_that_cannot_be_read_back_is_our_defect_and_ends_alone(steps: Steps, tmp_path: Path) -> None:
    own = dataclasses.replace(steps, data=tmp_path)
    shutil.copytree(steps.conversions, own.conversions)
    items = items_of(own)
    items[0]["conversion_id"] = "f" * 64
    (own.conversions / ("f" * 64) / "files").mkdir(parents=True)
    (own.conversions / ("f" * 64) / "files" / "x.safetensors").write_bytes(b"")
    first, second = score(own, items[:2], tmp_path)
    assert first["ended"] is not None
    assert (first["ended"].family, first["ended"].reason) == ("unexpected", "unexpected-error")
    assert "cannot be read back" in first["ended"].text
    assert second["ended"] is None


def test_a_score_belongs_to_its_probe_its_controls_and_the_code(steps: Steps) -> None:
    key = score_key(steps.pair, probe=PROBE)
    assert key != score_key(steps.pair, probe={**PROBE, "seed": 1})
    assert not any(isinstance(value, float) and math.isnan(value) for value in key.values())


def test_a_dora_is_scored_as_the_dora_that_would_be_published(steps: Steps, tmp_path: Path) -> None:
    item = as_dora(items_to_convert(steps)[0], tmp_path)
    plan, conversions = steps.pair["plans"]["copy"], str(tmp_path / "conversions")
    [converted] = convert_shard([item], plan=plan, bases=steps.bases, conversions=conversions, dialect="lycoris")
    assert converted["body"] is not None
    assert converted["body"]["gains_carried"] > 0

    name = str(converted["conversion_id"])
    wanted = ScoreItem(entry_key="dora", entry=item["entry"], files=item["files"], conversion_id=name, card=None)
    changed = dataclasses.replace(steps, data=tmp_path)
    [record] = score(changed, [wanted], tmp_path / "images")

    assert record["scored"] is not None
    own, random = (record["scored"]["figures"][name]["divergence_gain"]["value"] for name in ("converted", "random"))
    assert own > 0.5
    assert own > random
