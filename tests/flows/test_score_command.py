from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from flows import scoring_command
from flows.command_line import app
from lorax.adapter import Adapter
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.read import AdapterFiles, read_adapter
from lorax.scorer import Figure
from lorax.scorers import SCORERS
from lorax.weight_scorers import WEIGHT_SCORERS
from lorax.write import write_adapter
from tasks import single_score
from tests.conftest import REPOSITORY
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged

TEXT, DIGITS = REPOSITORY / "examples" / "text", REPOSITORY / "examples" / "digits"
ADAPTER = TEXT / "adapters" / "json"
BASES = ("--source", TEXT / "bases" / "text-v1", "--target", TEXT / "bases" / "text-v2")
PROBE = """
[score]
samples = 8
length = 48
rounds = 0
[gate]
divergence_gain = 0.3
[gate.most]
missing = 0.25
"""

ALL_TABLES = """
[probe]
predict = "held.txt"
[encoders.eye]
kind = "tiny"
path = "eyes"
[encoders.far]
kind = "tiny"
path = "hub:a/b@c"
[gate.families.sdxl]
divergence_gain = 0.1
"""


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def answered(*arguments: object) -> dict[str, Any]:
    """Returns the JSON of a call, with its exit status as `status`."""
    run = ask(*arguments, "--json")
    assert run.exit_code in {0, 3, 4}, run.output
    return {**json.loads(run.stdout), "status": run.exit_code}


def codes(answer: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in answer["reasons"]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("probe") / "migration.toml"
    file.write_text('name = "not looked at"\n' + PROBE)
    return file


@pytest.fixture(scope="module")
def target() -> Checkpoint:
    return open_checkpoint(TEXT / "bases" / "text-v2", name="text-v2")


@pytest.fixture(scope="module")
def meant() -> Adapter:
    """Returns the adapter as it is at home."""
    source = open_checkpoint(TEXT / "bases" / "text-v1", name="text-v1")
    files = AdapterFiles(ADAPTER / "adapter_model.safetensors", ADAPTER / "adapter_config.json", "json")
    return read_adapter(files, candidates=[source.base])


@pytest.fixture(scope="module")
def write(
    meant: Adapter, target: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Adapter], Path]:
    """Returns what writes a conversion for the target as peft does, and gives its folder."""
    place = tmp_path_factory.mktemp("conversions")

    def written(name: str, adapter: Adapter) -> Path:
        write_adapter(adapter, place / name, dialect="peft", base=target.base, stem=name, metadata={})
        return place / name

    return written


@pytest.fixture(scope="module")
def copied(write: Callable[[str, Adapter], Path], meant: Adapter) -> Path:
    return write("copy", meant)


@pytest.fixture(scope="module")
def good(copied: Path, probe: Path) -> dict[str, Any]:
    return answered(ADAPTER, *BASES, "--converted", copied, "--probe", probe)


def test_a_good_conversion_passes(good: dict[str, Any]) -> None:
    assert (good["verdict"], good["status"]) == ("pass", 0)
    assert codes(good) == ["gate-passed"]


def test_the_json_has_every_figure_with_its_interval_beside_those_of_the_rivals(good: dict[str, Any]) -> None:
    assert {"divergence_gain", "drift", "kept_norm", "missing", "homeless"} <= set(good["figures"])
    assert set(good["figures"]) <= {*SCORERS, *WEIGHT_SCORERS} | {name for name in good["figures"] if ":" in name}
    assert set(good["rivals"]) == {"copy", "random", "zero"}
    assert set(good["margins"]) == {"copy", "random", "zero"}
    for figures in (good["figures"], good["margins"], *good["rivals"].values()):
        for figure in figures.values():
            assert set(figure) == {"value", "low", "high"}
            assert figure["low"] <= figure["high"]
    assert good["rivals"]["zero"]["divergence_gain"]["value"] == 0
    assert (good["samples"], good["kind"], good["words"]) == (8, "language", ["neutral"])
    assert good["seconds"] > 0


def test_the_json_names_what_was_scored_and_the_thresholds_that_applied(good: dict[str, Any]) -> None:
    assert [good[role]["name"] for role in ("source", "target")] == ["text-v1", "text-v2"]
    assert all(len(good[role]["sha256"]) == 64 for role in ("adapter", "converted", "source", "target"))
    assert good["gate"]["divergence_gain"] == 0.3
    assert good["gate"]["most"]["missing"] == 0.25
    assert good["gate"]["margin_over_random"] > 0


def test_what_pulls_the_other_way_fails(write: Callable[[str, Adapter], Path], meant: Adapter, probe: Path) -> None:
    flipped = {site: replace(update, scale=-update.scale) for site, update in meant.low_rank().items()}
    found = answered(
        ADAPTER, *BASES, "--converted", write("flipped", replace(meant, updates=flipped)), "--probe", probe
    )
    assert (found["verdict"], found["status"]) == ("fail", 3)
    assert "gate-divergence-gain" in codes(found)
    assert found["figures"]["divergence_gain"]["high"] < 0


def test_half_of_the_sites_fail_for_what_is_missing(
    write: Callable[[str, Adapter], Path], meant: Adapter, probe: Path
) -> None:
    half = {site: update for index, (site, update) in enumerate(sorted(meant.updates.items())) if index % 2}
    found = answered(ADAPTER, *BASES, "--converted", write("half", replace(meant, updates=half)), "--probe", probe)
    assert (found["verdict"], found["status"]) == ("fail", 3)
    assert found["figures"]["missing"]["value"] > 0.3
    assert any("missing" in reason["text"] for reason in found["reasons"])


def test_a_threshold_inside_the_interval_leaves_the_verdict_open(
    good: dict[str, Any], copied: Path, probe: Path, tmp_path: Path
) -> None:
    edge = tmp_path / "edge.toml"
    edge.write_text(PROBE.replace("0.3", str(good["figures"]["divergence_gain"]["value"]), 1))
    found = answered(ADAPTER, *BASES, "--converted", copied, "--probe", edge)
    assert (found["verdict"], found["status"]) == ("uncertain", 4)
    assert codes(found) == ["gate-uncertain"]


def spoilt_copy(copied: Path, folder: Path, *, how: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((copied / "adapter_config.json").read_bytes())
    file = copied / "adapter_model.safetensors"
    if how == "truncated":
        (folder / file.name).write_bytes(file.read_bytes()[:-100])
    else:
        tensors = load_file(file)
        tensors[min(tensors)][0, 0] = float("nan")
        save_file(tensors, folder / file.name)
    return folder


@pytest.mark.parametrize("how", ["non-finite", "truncated"])
def test_a_conversion_that_cannot_be_read_fails_with_the_readers_reason(how: str, copied: Path, tmp_path: Path) -> None:
    found = answered(ADAPTER, *BASES, "--converted", spoilt_copy(copied, tmp_path / "broken", how=how))
    assert (found["verdict"], found["status"], codes(found)) == ("fail", 3, [how])
    assert (found["figures"], found["rivals"], found["samples"]) == ({}, {}, 0)
    assert len(found["converted"]["sha256"]) == 64


def test_a_conversion_for_another_base_fails_with_the_readers_reason() -> None:
    found = answered(ADAPTER, *BASES, "--converted", DIGITS / "catalogue" / "bold.safetensors")
    assert (found["verdict"], found["status"], codes(found)) == ("fail", 3, ["base-unknown"])


def test_an_adapter_that_cannot_be_read_is_status_1(copied: Path, tmp_path: Path) -> None:
    run = ask(spoilt_copy(copied, tmp_path / "broken", how="truncated"), *BASES, "--converted", copied)
    assert run.exit_code == 1
    assert "(truncated)" in run.stderr
    assert run.stdout == ""


def test_people_get_a_table_without_colours_where_there_is_no_terminal(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "probe.toml").write_text(
        "[probe]\nsamples = 4\nlength = 24\nrounds = 0\n[gate]\ndivergence_gain = -9.0"
    )
    run = ask(ADAPTER, *BASES, "--converted", copied, "--probe", tmp_path / "probe.toml")
    lines = run.stdout.splitlines()
    assert run.exit_code in {0, 3, 4}, run.output
    assert lines[0].endswith("text-v1 -> text-v2")
    assert lines[1] in {"pass", "fail", "uncertain"}
    heading = next(line for line in lines if line.startswith("figure"))
    assert heading.split() == ["figure", "value", "95", "%", "interval", "wanted", "zero", "copy", "random"]
    assert any(line.startswith("divergence_gain ") and "≥ -9.00" in line for line in lines)
    assert "\x1b" not in run.stdout
    assert run.stderr == ""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Returns two bases that draw pictures, an adapter, and its copy as peft's folders of one component each."""
    folder = tmp_path_factory.mktemp("tiny")
    source = make_base(folder / "tiny-v1", seed=1)
    target = nudged(source, folder / "tiny-v2", seed=2)
    bases = [open_checkpoint(path, name=path.name).base for path in (source, target)]
    adapter = make_adapter(bases[0], strength=3.0)
    (own,) = write_adapter(adapter, folder / "in", dialect="kohya", base=bases[0], stem="style", metadata={})
    write_adapter(adapter, folder / "out", dialect="peft", base=bases[1], stem="style", metadata={})
    return source, target, own, folder / "out"


def test_models_that_draw_need_no_probe_and_parts_of_a_conversion_are_put_together(
    tiny: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    source, target, own, converted = tiny
    assert len(list(converted.rglob("adapter_config.json"))) == 2
    (tmp_path / "prompts.txt").write_text("a digit\n\na handwritten one\n")
    call = (own, "--source", source, "--target", target, "--converted", converted)

    plain, told = answered(*call), answered(*call, "--probe", tmp_path / "prompts.txt")

    for found in (plain, told):
        assert found["kind"] == "diffusion"
        assert found["figures"]["missing"]["value"] == 0
        assert found["figures"]["kept_norm"]["value"] == pytest.approx(1, abs=1e-3)
        assert found["rivals"]["copy"]["divergence_gain"]["value"] == pytest.approx(
            found["figures"]["divergence_gain"]["value"], abs=1e-2
        )
    assert plain["figures"]["divergence_gain"] != told["figures"]["divergence_gain"]


def test_without_models_the_weights_are_told_but_nothing_passes(
    tiny: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    source, target, own, converted = tiny
    shutil.copytree(target, tmp_path / "tiny-v2", ignore=shutil.ignore_patterns("tokenizer"))
    found = answered(own, "--source", source, "--target", tmp_path / "tiny-v2", "--converted", converted)
    assert (found["verdict"], found["status"], codes(found)) == ("fail", 3, ["not-scored"])
    assert "lacks tokenizer/" in found["reasons"][0]["text"]
    assert set(found["figures"]) == {"kept_norm", "subspace_agreement", "missing", "homeless"}
    assert found["figures"]["kept_norm"]["value"] == pytest.approx(1, abs=1e-3)


def test_bases_that_do_not_compare_are_not_scored(tiny: tuple[Path, Path, Path, Path], copied: Path) -> None:
    source, _, own, _ = tiny
    found = answered(own, "--source", source, *BASES[2:], "--converted", copied)
    assert (found["verdict"], codes(found)) == ("fail", ["not-scored"])
    assert found["figures"]["homeless"]["value"] == 1


def test_a_file_of_digits_scores_by_a_whole_migration(tmp_path: Path) -> None:
    settings = (DIGITS / "migration.toml").read_text()
    quick = settings.replace("samples = 10", "samples = 3\nrounds = 0").replace("steps = 8", "steps = 2")
    (tmp_path / "migration.toml").write_text(f"{quick}\n[gate]\ndivergence_gain = 0.4\n")
    bold = DIGITS / "catalogue" / "bold.safetensors"
    bases = ("--source", DIGITS / "bases" / "digits-v1", "--target", DIGITS / "bases" / "digits-v2")
    found = answered(bold, *bases, "--converted", bold, "--probe", tmp_path / "migration.toml")
    assert (found["samples"], found["gate"]["divergence_gain"]) == (3, 0.4)
    assert found["verdict"] != "fail"
    assert found["figures"]["divergence_gain"]["value"] > 0.4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "b", "--converted", "c"), "--source"),
        (("--source", "a", "--target", "b", "--converted", "c", "--method", "copy"), "--method"),
        (("--source", "nowhere", "--target", "nowhere", "--converted", str(ADAPTER)), "there is no such folder"),
        ((*map(str, BASES), "--converted", "nowhere.safetensors"), "there is no such file"),
        ((*map(str, BASES), "--converted", str(TEXT)), "adapter_config.json"),
    ],
)
def test_a_wrong_call_is_status_2_and_says_what_is_wrong(arguments: tuple[str, ...], said: str) -> None:
    run = ask(ADAPTER, *arguments)
    assert run.exit_code == 2
    assert said in run.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("probe.toml", "[score]\nsample = 2", "sample"),
        ("probe.toml", "[score", "no TOML file"),
        ("probe.toml", "[gate]\nleast = 3", "gate.least"),
        ("prompts.txt", "\n \n", "no prompt"),
        ("prompts.txt", None, "No such file"),
    ],
)
def test_a_probe_file_that_cannot_be_used_is_a_wrong_call(
    name: str, text: str | None, said: str, copied: Path, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    run = ask(ADAPTER, *BASES, "--converted", copied, "--probe", tmp_path / name)
    assert run.exit_code == 2
    assert said in run.stderr


def test_paths_in_a_probe_file_are_its_own(tmp_path: Path) -> None:
    from flows.scoring_probe import read_asked

    (tmp_path / "probe.toml").write_text(ALL_TABLES)
    asked = read_asked(tmp_path / "probe.toml")
    task = asked.task("language")
    assert task.settings.predict == str(tmp_path / "held.txt")
    assert {one.name: one.path for one in task.encoders} == {"eye": str(tmp_path / "eyes"), "far": "hub:a/b@c"}
    assert asked.gate["families"]["sdxl"]["divergence_gain"] == 0.1


def test_tasks_of_the_harness_stand_beside_the_figures_and_can_be_held_to_thresholds(
    monkeypatch: pytest.MonkeyPatch, copied: Path, tmp_path: Path
) -> None:
    """The harness itself is tested elsewhere; here it answers .2 for everything."""
    own, plain = {"harness:spelling": Figure(0.2, 0.1, 0.3)}, {"harness:spelling": Figure(0.4, 0.3, 0.5)}
    monkeypatch.setattr(single_score, "harness_figures", lambda *_: {"converted": own, "zero": plain})
    (tmp_path / "probe.toml").write_text(
        "[probe]\nsamples = 4\nlength = 24\nrounds = 0\n[gate]\ndivergence_gain = -9.0\nmargin_over_random = -9.0\n"
        '[gate.least]\n"harness:spelling" = 0.5\n'
    )
    found = answered(ADAPTER, *BASES, "--converted", copied, "--probe", tmp_path / "probe.toml")
    assert found["figures"]["harness:spelling"] == {"value": 0.2, "low": 0.1, "high": 0.3}
    assert found["rivals"]["zero"]["harness:spelling"]["value"] == 0.4
    assert (found["verdict"], codes(found)) == ("fail", ["gate-figure"])


def test_ctrl_c_ends_it_quietly(monkeypatch: pytest.MonkeyPatch, copied: Path, tmp_path: Path) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring_command, "open_bases", pressed)
    monkeypatch.chdir(tmp_path)
    run = ask(ADAPTER, *BASES, "--converted", copied)
    assert run.exit_code == 130
    assert (run.stdout, list(tmp_path.iterdir())) == ("", [])
    assert "Traceback" not in run.stderr


def test_a_file_that_gives_way_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch, copied: Path) -> None:
    def gone(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(scoring_command, "sha256_file", gone)
    run = ask(ADAPTER, *BASES, "--converted", DIGITS / "catalogue" / "bold.safetensors")
    assert run.exit_code == 2
    assert "No such file or directory" in run.stderr
    assert "adapter_model.safetensors" in run.stderr
