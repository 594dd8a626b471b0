from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from flows.command_line import app
from lorax.adapter import Adapter, Site
from lorax.algorithms.dora import DoRA
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.convert import Conversion, convert_adapters
from lorax.plan import load_plan
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged

PROBE = '[probe]\nprompts = ["a digit"]\nsamples = 2\ntimesteps = [100, 900]\nsteps = 2\n'


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bases")
    source = make_base(folder / "tiny-v1", seed=1)
    return source, nudged(source, folder / "tiny-v2", seed=2)


@pytest.fixture(scope="module")
def source(bases: tuple[Path, Path]) -> Checkpoint:
    return open_checkpoint(bases[0], name="tiny-v1")


def written(adapter: Adapter, folder: Path, source: Checkpoint, dialect: str = "kohya") -> Path:
    paths = write_adapter(adapter, folder, dialect=dialect, base=source.base, stem="style", metadata={})
    return paths[0] if len(paths) == 1 else folder


def compiled(bases: tuple[Path, Path], out: Path, method: str, *more: object) -> Path:
    run = ask("plan", *bases, "--method", method, "-o", out, "--json", *more)
    assert run.exit_code == 0, run.output
    return Path(json.loads(run.stdout)["plan"])


def opened(path: Path, checkpoint: Checkpoint) -> Adapter:
    return read_adapter(AdapterFiles(path, None, path.name), candidates=[checkpoint.base])


def test_a_plan_applies_when_both_bases_are_gone(bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path) -> None:
    copies = (tmp_path / "tiny-v1", tmp_path / "tiny-v2")
    for base, copy in zip(bases, copies, strict=True):
        shutil.copytree(base, copy)
    plan = compiled(copies, tmp_path / "plan.safetensors", "lora-x")
    adapter = written(make_adapter(source.base), tmp_path / "in", source)
    for copy in copies:
        shutil.rmtree(copy)

    run = ask("convert", adapter, "--plan", plan, "-o", tmp_path / "out.safetensors")

    assert run.exit_code == 0, run.output
    target = open_checkpoint(bases[1], name="tiny-v2")
    (expected,) = convert_adapters(load_plan(plan), [opened(adapter, source)])
    assert isinstance(expected, Conversion)
    found = opened(tmp_path / "out.safetensors", target)
    assert found.updates.keys() == expected.adapter.updates.keys()
    for site, update in expected.adapter.low_rank().items():
        assert torch.allclose(found.updates[site].dense(), update.dense(), atol=2e-3)
    assert found.dtype == torch.float16


def test_one_step_writes_the_same_weights_as_two(bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path) -> None:
    adapter = written(make_adapter(source.base), tmp_path / "in", source)
    plan = compiled(bases, tmp_path / "plans", "copy")
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"

    first = ask("convert", adapter, "--source", bases[0], "--target", bases[1], "--method", "copy", "-o", one)
    second = ask("convert", adapter, "--plan", plan, "-o", two)

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    target = open_checkpoint(bases[1], name="tiny-v2")
    assert opened(one, target).weights_sha256 == opened(two, target).weights_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "one.safetensors", "plans", "two.safetensors"]


def test_a_method_that_needs_a_probe_gets_it_from_a_file(
    bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "probe.toml").write_text(PROBE)
    adapter = written(make_adapter(source.base), tmp_path / "in", source)
    plan = compiled(bases, tmp_path / "plan.safetensors", "calibrated", "--probe", tmp_path / "probe.toml")

    run = ask("convert", adapter, "--plan", plan, "-o", tmp_path / "out", "--dialect", "peft", "--json")

    assert run.exit_code == 0, run.output
    facts = json.loads(run.stdout)
    assert (facts["method"], facts["dialect"], facts["scored"]) == ("calibrated", "peft", False)
    assert facts["sites_mapped"] == facts["sites_total"] == len(facts["sites"]) > 0
    assert all(Path(each["path"]).is_file() for each in facts["files"])


def test_a_peft_folder_goes_in_and_comes_out(bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path) -> None:
    adapter = make_adapter(source.base)
    unet = {site: update for site, update in adapter.updates.items() if site.component == "unet"}
    folder = tmp_path / "in"
    written(replace(adapter, updates=unet), folder, source, "peft")
    plan = compiled(bases, tmp_path / "plan.safetensors", "copy")

    run = ask("convert", folder, "--plan", plan, "-o", tmp_path / "out")

    assert run.exit_code == 0, run.output
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}


def test_the_table_tells_what_was_dropped_and_why(bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path) -> None:
    adapter = written(make_adapter(source.base), tmp_path / "in", source)
    plan = compiled(bases, tmp_path / "plan.safetensors", "lora-x")
    out = tmp_path / "out.safetensors"

    run = ask("convert", adapter, "--plan", plan, "-o", out)

    assert "tiny-v1 -> tiny-v2 by lora-x" in run.stdout
    assert "mapped" in run.stdout
    assert "100.0%" in run.stdout
    assert "Not scored" in run.stdout
    assert run.stdout.splitlines()[-1] == str(out)


def with_magnitudes(source: Checkpoint) -> Adapter:
    adapter = make_adapter(source.base)
    site = next(site for site in adapter.updates if site.component == "unet")
    magnitude = source.weight(site).flatten(1).norm(dim=1) * 1.5
    return replace(adapter, updates={site: DoRA(adapter.low_rank()[site], magnitude, per_output=True)})


def test_an_update_that_depends_on_its_base_asks_for_it_and_is_lowered_on_it(
    bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path
) -> None:
    adapter = written(with_magnitudes(source), tmp_path / "in", source, "lycoris")
    plan = compiled(bases, tmp_path / "plan.safetensors", "copy")
    out = tmp_path / "out.safetensors"

    without = ask("convert", adapter, "--plan", plan, "-o", out)
    wrong = ask("convert", adapter, "--plan", plan, "--source", bases[1], "-o", out)
    assert (without.exit_code, wrong.exit_code) == (1, 2)
    assert "--source FOLDER" in without.stderr
    assert "not the weights of tiny-v1" in wrong.stderr
    assert not out.exists()

    run = ask("convert", adapter, "--plan", plan, "--source", bases[0], "-o", out)
    assert run.exit_code == 0, run.output
    (site,) = opened(adapter, source).updates
    change = opened(adapter, source).updates[site].dense(source.weight(site))
    found = opened(out, open_checkpoint(bases[1], name="tiny-v2")).updates[site].dense()
    assert float((found - change).norm() / change.norm()) < 0.01


def test_between_bases_that_are_at_hand_a_dora_keeps_its_gains(
    bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path
) -> None:
    meant = with_magnitudes(source)
    adapter, out = written(meant, tmp_path / "in", source, "lycoris"), tmp_path / "out.safetensors"
    call = ("convert", adapter, "--source", bases[0], "--target", bases[1], "--method", "copy")

    run, shown = ask(*call, "-o", out, "--json"), ask(*call, "-o", tmp_path / "again.safetensors")

    assert run.exit_code == 0, run.output
    assert (facts := json.loads(run.stdout))["gains_carried"] == 1
    assert [site["reason"] for site in facts["sites"]] == ["gain-carried"]
    assert "gains of DoRA were carried at 1 sites" in shown.stdout
    target = open_checkpoint(bases[1], name="tiny-v2")
    ((site, found),) = opened(out, target).updates.items()
    before = meant.updates[site]
    assert isinstance(found, DoRA)
    assert isinstance(before, DoRA)
    torch.testing.assert_close(found.gain(target.weight(site)), before.gain(source.weight(site)), rtol=4e-3, atol=1e-3)


def test_an_adapter_of_another_base_is_refused_by_name(
    bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path
) -> None:
    adapter = make_adapter(source.base)
    site = Site("unet", "down_blocks.7.attn")
    larger = replace(source.base, sites={**source.base.sites, site: next(iter(source.base.sites.values()))})
    strange = replace(adapter, updates={site: next(iter(adapter.updates.values()))})
    paths = write_adapter(strange, tmp_path / "in", dialect="diffusers", base=larger, stem="x", metadata={})
    plan = compiled(bases, tmp_path / "plan.safetensors", "copy")

    run = ask("convert", paths[0], "--plan", plan, "-o", tmp_path / "out")

    assert run.exit_code == 1
    assert paths[0].name in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "missing: --source, --target, --method"),
        (("--source", "a", "--method", "copy"), "missing: --target"),
        (("--plan", "p", "--method", "copy"), "leave out --method"),
        (("--plan", "nowhere.safetensors"), "there is no such file"),
        (("--source", "a", "--target", "b", "--method", "copi"), "There is no transfer method 'copi'"),
        (("--source", "a", "--target", "b", "--method", "copy"), "there is no such folder"),
        (("--source", "a", "--target", "b", "--method", "calibrated"), "give --probe FILE"),
        (("--plan", "p", "--dialect", "cohya"), "'cohya' does not exist"),
    ],
)
def test_a_wrong_call_is_told_what_to_do(
    arguments: tuple[str, ...], said: str, source: Checkpoint, tmp_path: Path
) -> None:
    adapter = written(make_adapter(source.base), tmp_path / "in", source)

    run = ask("convert", adapter, "-o", tmp_path / "out.safetensors", *arguments)

    assert run.exit_code == 2
    assert said in run.stderr
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("[probe]\nprompts = [", "no TOML file"), ("[probe]\nsamples = 2", "prompts"), ("[probe]\nprompt = []", "prompt")],
)
def test_a_probe_file_that_describes_none_is_told_apart(
    text: str, said: str, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "probe.toml").write_text(text)
    run = ask("plan", *bases, "--method", "calibrated", "--probe", tmp_path / "probe.toml", "-o", tmp_path / "plans")
    assert run.exit_code == 2
    assert said in run.stderr


def test_what_is_there_is_never_overwritten(bases: tuple[Path, Path], source: Checkpoint, tmp_path: Path) -> None:
    adapter = written(make_adapter(source.base), tmp_path / "in", source)
    plan = compiled(bases, tmp_path / "plan.safetensors", "copy")
    (tmp_path / "out.safetensors").write_text("mine")

    runs = [
        ask("convert", adapter, "--plan", plan, "-o", tmp_path / "out.safetensors"),
        ask("plan", *bases, "--method", "copy", "-o", plan),
    ]

    assert [run.exit_code for run in runs] == [2, 2]
    assert all("never overwritten" in run.stderr for run in runs)
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_a_plan_is_told_to_people_in_two_lines(bases: tuple[Path, Path], tmp_path: Path) -> None:
    run = ask("plan", *bases, "--method", "zero", "-o", tmp_path / "plans")
    first, second = run.stdout.splitlines()
    assert first.startswith("zero, tiny-v1 -> tiny-v2: 0 of ")
    assert "(zero-control)" in first
    assert Path(second).parent == tmp_path / "plans"
