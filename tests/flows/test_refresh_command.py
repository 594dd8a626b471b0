from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.command_line import app
from lorax.checkpoint import open_checkpoint
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged
from tests.stand_ins.tiny_texts import make_text_base, nudged_text_base

PROBE = '[probe]\nprompts = ["a digit"]\nsamples = 2\ntimesteps = [100, 900]\nsteps = 2\n'


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def bases(folder: Path, kind: str) -> tuple[Path, Path]:
    if kind == "diffusion":
        source = make_base(folder / "tiny-v1", seed=1)
        return source, nudged(source, folder / "tiny-v2", seed=2)
    source = make_text_base(folder / "letters-v1", seed=1)
    return source, nudged_text_base(source, folder / "letters-v2", seed=2)


def adapter_of(source: Path, folder: Path, *, words: tuple[str, ...] = ("bold style",)) -> Path:
    """Writes a PEFT folder with an adapter of a base, and returns it."""
    base = open_checkpoint(source, name=source.name).base
    adapter = make_adapter(base, match="proj" if "letters" in source.name else "attn", strength=2.0)
    updates = {site: update for site, update in adapter.updates.items() if site.component != "text_encoder"}
    adapter = replace(adapter, updates=updates, trigger_words=words)
    write_adapter(adapter, folder, dialect="peft", base=base, stem="style", metadata={})
    return folder


@pytest.mark.parametrize("kind", ["language", "diffusion"])
def test_a_refresh_writes_an_adapter_and_tells_what_it_reached(kind: str, tmp_path: Path) -> None:
    source, target = bases(tmp_path, kind)
    adapter = adapter_of(source, tmp_path / "style")
    (tmp_path / "probe.toml").write_text(PROBE)
    probe = () if kind == "language" else ("--probe", tmp_path / "probe.toml")
    call = ("convert", adapter, "--source", source, "--target", target, "--method", "refresh", *probe)

    run = ask(*call, "--budget", 6, "-o", tmp_path / "out", "--json")

    assert run.exit_code == 0, run.output
    facts = json.loads(run.stdout)
    assert facts["method"] == "refresh"
    assert facts["started_from"] in facts["starts"]
    gain = facts["divergence_gain"]
    assert gain["before"] == pytest.approx(max(facts["starts"].values()), abs=1e-4)
    assert gain["after"] >= gain["before"]
    assert facts["steps"] == facts["checks"][-1]["step"]
    weights, config = tmp_path / "out" / "adapter_model.safetensors", tmp_path / "out" / "adapter_config.json"
    found = read_adapter(
        AdapterFiles(weights, config, "out"), candidates=[open_checkpoint(target, name=target.name).base]
    )
    assert len(found.updates) == facts["sites_mapped"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "copy", "--budget", "5"), "--budget is for refresh and auto"),
        (("--method", "refresh"), "there is no such folder"),
    ],
)
def test_a_wrong_call_is_told_what_to_do(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    source, _ = bases(tmp_path, "language")
    adapter = adapter_of(source, tmp_path / "style")

    run = ask("convert", adapter, "--source", source, "--target", tmp_path / "no", *arguments, "-o", tmp_path / "out")

    assert run.exit_code == 2
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


def test_refresh_is_no_plan_and_says_what_to_do_instead(tmp_path: Path) -> None:
    run = ask("plan", tmp_path / "a", tmp_path / "b", "--method", "refresh", "-o", tmp_path / "plans")

    assert run.exit_code == 2
    assert "lorax convert ADAPTER --source S --target T --method refresh" in run.stderr


def test_a_diffusion_model_asks_for_prompts_where_the_adapter_has_no_words(tmp_path: Path) -> None:
    source, target = bases(tmp_path, "diffusion")
    adapter = adapter_of(source, tmp_path / "style", words=())
    call = ("convert", adapter, "--source", source, "--target", target, "--method", "refresh")

    run = ask(*call, "-o", tmp_path / "out")

    assert run.exit_code == 2
    assert "prompts" in run.stderr


@pytest.mark.parametrize("method", ["auto", "calibrated", "procrustes"])
def test_a_language_model_needs_no_probe_for_it_writes_its_own(method: str, tmp_path: Path) -> None:
    source, target = bases(tmp_path, "language")
    adapter = adapter_of(source, tmp_path / "style")

    run = ask("convert", adapter, "--source", source, "--target", target, "--method", method, "-o", tmp_path / "out")

    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_auto_goes_on_by_a_refresh_where_it_is_given_time(tmp_path: Path) -> None:
    source, target = bases(tmp_path, "language")
    adapter = adapter_of(source, tmp_path / "style")
    call = ("convert", adapter, "--source", source, "--target", target, "--method", "auto")

    run = ask(*call, "--budget", 3, "-o", tmp_path / "out", "--json")

    assert run.exit_code == 0, run.output
    facts = json.loads(run.stdout)
    assert facts["method"] == "refresh"
    assert facts["steps"] > 0
