"""`lorax rewrite`, as a user calls it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows import adapter_files as command
from flows import rewriting
from lorax.adapter import LowRank, Site, SiteShape, Update
from lorax.algorithms.dora import DoRA
from lorax.algorithms.loha import LoHa
from lorax.algorithms.lokr import LoKr
from tests.stand_ins.adapter_commands import (
    BASES,
    GENUINE,
    SD,
    Q,
    ask,
    assert_same,
    flux_file,
    read,
    small_adapter,
    written,
)
from tests.stand_ins.adapter_files import SMALL_UNET, random_adapter, write_base_folder, write_kohya


@pytest.fixture(autouse=True)
def _bases_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a base are made once for all calls of this process, as they are for all files of a folder."""
    for module in (command, rewriting):
        monkeypatch.setattr(module, "known_bases", lambda: tuple(BASES.values()))


@pytest.mark.parametrize("first", ["kohya", "diffusers", "peft", "lycoris", "comfyui", "onetrainer", "diffusers_old"])
@pytest.mark.parametrize("second", ["kohya", "diffusers", "peft", "lycoris", "comfyui", "onetrainer", "ai_toolkit"])
def test_every_pair_of_dialects_gives_the_same_adapter(first: str, second: str, tmp_path: Path) -> None:
    adapter = small_adapter()
    start = written(adapter, tmp_path / "start", first)

    run = ask("rewrite", start, "--dialect", second, "-o", tmp_path / "out", "--base", "sd1.5")

    assert (run.exit_code, run.stderr) == (0, "")
    made = [Path(line) for line in run.stdout.splitlines()]
    assert made == [path for path in made if path.is_file()]
    found = read(tmp_path / "out" if len(made) > 1 else made[0])
    assert found.dialect == second
    assert_same(found.updates, adapter.updates)
    assert found.trigger_words == ("zebra",)
    assert found.metadata["modelspec.author"] == "somebody"


def full_rank_lokr(shape: SiteShape) -> LoKr:
    whole = {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(shape.out_features // 4, shape.columns // 4)}
    return LoKr(whole, 1.0, shape)


def loha(shape: SiteShape, rank: int = 2) -> LoHa:
    sizes = [(shape.out_features, rank), (rank, shape.columns)] * 2
    return LoHa(*(torch.randn(size) for size in sizes), scale=0.5, shape=shape)


def rich_file(update: Update, folder: Path) -> Path:
    adapter = replace(small_adapter(), updates={Q: update}, algorithms=(update.algorithm,))
    return written(adapter, folder, "lycoris")


def test_what_is_exactly_low_rank_is_written_exactly_and_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    update = loha(SD.sites[Q])
    start = rich_file(update, tmp_path / "start")

    run = ask("rewrite", start, "--dialect", "kohya", "-o", tmp_path / "k.safetensors", "--base", "sd1.5")

    assert (run.exit_code, run.stdout) == (0, f"{tmp_path / 'k.safetensors'}\n")
    assert "1 updates are written as LoRA of rank 4 or less, exactly" in run.stderr
    assert_same(read(tmp_path / "k.safetensors").updates, {Q: update})


def test_a_dialect_with_the_word_keeps_the_algorithm(tmp_path: Path) -> None:
    update = full_rank_lokr(SD.sites[Q])
    start = rich_file(update, tmp_path / "start")

    run = ask("rewrite", start, "--dialect", "comfyui", "-o", tmp_path / "c.safetensors", "--base", "sd1.5")

    assert (run.exit_code, run.stderr) == (0, "")
    found = read(tmp_path / "c.safetensors")
    assert found.algorithms == ("lokr",)
    assert_same(found.updates, {Q: update})


def test_what_is_not_exact_is_refused_with_the_ways_out_and_a_rank_is_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    update = full_rank_lokr(replace(SD.sites[Q]))
    start = rich_file(update, tmp_path / "start")
    call = ("rewrite", start, "--dialect", "kohya", "--base", "sd1.5", "-o", tmp_path / "out" / "k.safetensors")

    refused = ask(*call)
    assert refused.exit_code == 1
    for word in ("kohya has no word for lokr", "rank 320", "--rank N", "lycoris", "(unwritable)"):
        assert word in refused.stderr
    assert not (tmp_path / "out").exists()

    done = ask(*call, "--rank", 32)
    assert done.exit_code == 0
    found = read(tmp_path / "out" / "k.safetensors").low_rank()[Q]
    assert found.rank == 32
    left = float((found.dense() - update.dense()).norm() ** 2 / update.dense().norm() ** 2)
    told = float(re.findall(r"([\d.]+)%", done.stderr)[0]) / 100
    assert told == pytest.approx(left, abs=1e-3)
    assert 0.1 < left < 0.95


def test_dora_needs_the_base_to_become_lora_and_then_keeps_what_it_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = write_base_folder(tmp_path / "my-base", unet=SMALL_UNET)
    [checkpoint] = command.open_bases([folder])
    base = checkpoint.base
    weight = checkpoint.weight(Q).float()
    plain = LowRank(torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1]), 1.0)
    magnitude = (weight + plain.dense()).norm(dim=1, keepdim=True) * 1.5
    update = DoRA(plain, magnitude, per_output=True)
    adapter = replace(random_adapter(base), updates={Q: update}, algorithms=("dora",))
    start = written(adapter, tmp_path / "start", "lycoris", base)
    call = ("rewrite", start, "--dialect", "kohya", "--base", folder, "-o", tmp_path / "k.safetensors")

    refused, done = ask(*call), ask(*call, "--rank", 8)

    assert refused.exit_code == 1
    assert "--rank N" in refused.stderr
    assert done.exit_code == 0
    found = read(tmp_path / "k.safetensors", base)
    torch.testing.assert_close(found.updates[Q].dense(), update.dense(weight), rtol=1e-2, atol=1e-2)


def test_dora_without_the_base_says_that_the_base_is_wanted(tmp_path: Path) -> None:
    shape = SD.sites[Q]
    plain = LowRank(torch.randn(shape.out_features, 2), torch.randn(2, shape.in_features), 1.0)
    start = rich_file(DoRA(plain, torch.ones(shape.out_features, 1), per_output=True), tmp_path / "start")

    run = ask("rewrite", start, "--dialect", "kohya", "--base", "sd1.5", "--rank", 4, "-o", tmp_path / "k.safetensors")

    assert run.exit_code == 1
    assert "--base FOLDER" in run.stderr
    assert "(unwritable)" in run.stderr


def test_changes_of_norms_are_never_lost_silently(tmp_path: Path) -> None:
    vector = Site("unet", "down_blocks.0.attentions.0.norm.weight")
    adapter = replace(small_adapter(), vectors={vector: torch.ones(SD.vectors[vector])})
    start = written(adapter, tmp_path / "start", "lycoris")

    refused = ask("rewrite", start, "--dialect", "kohya", "--base", "sd1.5", "-o", tmp_path / "k.safetensors")
    kept = ask("rewrite", start, "--dialect", "comfyui", "--base", "sd1.5", "-o", tmp_path / "c.safetensors")

    assert refused.exit_code == 1
    assert not (tmp_path / "k.safetensors").exists()
    assert (kept.exit_code, kept.stderr) == (0, "")
    assert torch.equal(read(tmp_path / "c.safetensors").vectors[vector], torch.ones(SD.vectors[vector]))


def test_an_undecided_base_is_asked_for_and_never_made_up(tmp_path: Path) -> None:
    adapter = flux_file(tmp_path / "flux.safetensors")
    call = ("rewrite", tmp_path / "flux.safetensors", "--dialect", "diffusers", "-o", tmp_path / "out")

    refused, done = ask(*call), ask(*call, "--base", "flux1-schnell")

    assert refused.exit_code == 1
    assert "--base flux1-dev or --base flux1-schnell" in refused.stderr
    assert done.exit_code == 0
    out = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    assert_same(read(out, BASES["flux1-schnell"]).updates, adapter.updates)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Returns a kohya file of Stable Diffusion 1.5."""
    return write_kohya(tmp_path / "start.safetensors", small_adapter(), {"ss_base_model_version": "sd_v1"})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_nothing_that_exists_is_overwritten(start: Path, tmp_path: Path) -> None:
    before = start.read_bytes()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "pytorch_lora_weights.safetensors").write_text("mine")
    (tmp_path / "full" / "adapter_config.json").write_text("mine")
    (tmp_path / "word").write_text("mine")
    there = leftovers(tmp_path)

    for dialect, out in (("diffusers", start), ("diffusers", "full"), ("peft", "full"), ("diffusers", "word")):
        run = ask("rewrite", start, "--dialect", dialect, "-o", tmp_path / out)
        assert (run.exit_code, run.stdout) == (2, "")
        assert "Traceback" not in run.stderr

    assert start.read_bytes() == before
    assert leftovers(tmp_path) == there


def test_missing_folders_are_made_and_an_existing_one_gets_the_file(start: Path, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c.safetensors"
    (tmp_path / "loras").mkdir()

    one = ask("rewrite", start, "--dialect", "lycoris", "-o", deep)
    two = ask("rewrite", start, "--dialect", "lycoris", "-o", tmp_path / "loras")
    three = ask("rewrite", start, "--dialect", "peft", "-o", tmp_path / "new" / "peft")

    assert [one.stdout, two.stdout] == [f"{deep}\n", f"{tmp_path / 'loras' / 'start.safetensors'}\n"]
    assert three.exit_code == 0
    assert leftovers(tmp_path / "new") == ["adapter_config.json", "adapter_model.safetensors", "peft"]
    assert not [name for name in leftovers(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--dialect", "frobnicate", "-o", "x.safetensors"], "choose one of"),
        (["--dialect", "cloneofsimo", "-o", "x.safetensors"], "only read"),
        (["--dialect", "peft", "-o", "x.safetensors"], "give a folder"),
        (["--dialect", "kohya", "-o", "x.ckpt"], "pickles"),
        (["--dialect", "kohya", "-o", "x.safetensors", "--base", "no-such-base"], "sd1.5"),
        (["--dialect", "kohya", "-o", "x.safetensors", "--rank", "0"], "rank"),
    ],
)
def test_a_wrong_call_ends_with_status_2_and_leaves_nothing(
    arguments: list[str], word: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run = ask("rewrite", start, *arguments)

    assert run.exit_code == 2
    assert word in run.stderr
    assert leftovers(tmp_path) == ["start.safetensors"]


def test_a_disk_that_refuses_leaves_nothing(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)

    run = ask("rewrite", start, "--dialect", "diffusers", "-o", tmp_path / "out.safetensors")

    assert (run.exit_code, "No space left on device" in run.stderr) == (2, True)
    assert leftovers(tmp_path) == ["start.safetensors"]


def test_a_source_that_is_no_adapter_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "page.safetensors"
    path.write_text("<html></html>")

    run = ask("rewrite", path, "--dialect", "kohya", "-o", tmp_path / "x.safetensors")
    gone = ask("rewrite", tmp_path / "nowhere", "--dialect", "kohya", "-o", tmp_path / "x.safetensors")
    folder = ask("rewrite", GENUINE, "--dialect", "kohya", "-o", tmp_path / "x.safetensors")

    assert (run.exit_code, gone.exit_code, folder.exit_code) == (1, 2, 2)
    assert "(html-page)" in run.stderr
    assert "adapter_config.json" in folder.stderr
