"""`lorax inspect` and `lorax rewrite`, as a user calls them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from flows import adapter_files as command
from flows import rewriting
from flows.command_line import app
from lorax.adapter import Adapter, LowRank, Site, SiteShape, Update
from lorax.algorithms.dora import DoRA
from lorax.algorithms.loha import LoHa
from lorax.algorithms.lokr import LoKr
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.read import read_adapter
from lorax.weight_file import WeightFile, open_weight_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import SMALL_UNET, random_adapter, write_base_folder, write_kohya

REPOSITORY = Path(__file__).resolve().parents[2]
GENUINE = REPOSITORY / "tests" / "genuine"
BASES = {base.name: base for base in known_bases()}
SD = BASES["sd1.5"]
Q = Site("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")


@pytest.fixture(autouse=True)
def _bases_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a base are made once for all calls of this process, as they are for all files of a folder."""
    for module in (command, rewriting):
        monkeypatch.setattr(module, "known_bases", lambda: tuple(BASES.values()))


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def small_adapter(base: BaseModel = SD, *, match: str = "mid_block.attentions.0.*attn", count: int = 12) -> Adapter:
    """An adapter on the few attention modules that match, with words in its header."""
    own = [site for site in sorted(base.sites) if re.search(match, str(site))][:count]
    few = replace(base, sites={site: base.sites[site] for site in own})
    made = random_adapter(few, dtype=torch.float32, scales=(0.5,))
    metadata = {"modelspec.author": "somebody", "modelspec.trigger_phrase": "zebra"}
    return replace(
        made, updates={site: made.updates[site] for site in own}, metadata=metadata, trigger_words=("zebra",)
    )


def written(adapter: Adapter, folder: Path, dialect: str, base: BaseModel = SD) -> Path:
    """The path to give to a command: of the file, or of the folder where there is a configuration."""
    paths = write_adapter(adapter, folder, dialect=dialect, base=base, stem="start", metadata={})
    return folder if any(path.suffix == ".json" for path in paths) else paths[0]


def read(path: Path, base: BaseModel = SD) -> Adapter:
    return read_adapter(command.adapter_files(path), candidates=[base])


def assert_same(found: Mapping[Site, Update], wanted: Mapping[Site, Update], *, tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for site, update in wanted.items():
        torch.testing.assert_close(found[site].dense(), update.dense(), rtol=tolerance, atol=tolerance)


# inspect


def test_the_examples_of_the_docs_are_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "adapter-files.md").read_text(encoding="utf-8")
    examples = re.findall(r"```\n\$ lorax (.*)\n((?:.*\n)*?)```\n", page)
    for name in ("tests", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)

    assert {arguments.split()[0] for arguments, _ in examples} == {"inspect", "rewrite"}
    for arguments, expected in examples:
        run = ask(*arguments.split())
        assert run.stderr + run.stdout == expected


def test_a_folder_is_one_line_for_each_adapter_and_equal_refusals_are_counted(tmp_path: Path) -> None:
    write_kohya(tmp_path / "[bold] good.safetensors", small_adapter())
    written(small_adapter(), tmp_path / "sub" / "peft one", "peft")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}{'long' * 30}.safetensors").write_text("<html>not found</html>")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / ".hidden.safetensors").write_bytes(b"")

    run = ask("inspect", tmp_path)

    lines = run.stdout.splitlines()
    assert run.exit_code == 1
    assert [line.split("  ")[0] for line in lines[1:6]] == [
        "[bold] good.safetensors", *(f"{name}{'long' * 30}.safetensors" for name in "abc"), "sub/peft one",
    ]  # fmt: skip
    assert lines[6:8] == ["", "5 adapters, 3 of which would be refused:"]
    assert next(line.split()[0] for line in lines if "html-page:" in line) == "3"
    assert lines[-1] == "never opened, because pickles can run code: 1 .ckpt"


def test_of_a_folder_only_headers_are_read_unless_all_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kohya(tmp_path / "a.safetensors", small_adapter())
    with monkeypatch.context() as patch:
        for reading in ("read", "weights_sha256"):
            patch.setattr(WeightFile, reading, lambda *_: pytest.fail("the body was read"))
        [header] = json.loads(ask("inspect", tmp_path, "--json").stdout)

    [whole] = json.loads(ask("inspect", tmp_path, "--json", "--full").stdout)

    assert (header["headers_only"], header["norm"], header["sha256"]) == (True, None, None)
    assert (whole["headers_only"], whole["norm"] > 0, len(whole["sha256"])) == (False, True, 64)
    assert header["sites"] == whole["sites"] == 8


def test_a_peft_folder_is_one_adapter_with_its_configuration(tmp_path: Path) -> None:
    folder = written(small_adapter(), tmp_path / "p", "peft")

    record = json.loads(ask("inspect", folder, "--json").stdout)
    beside = json.loads(ask("inspect", folder / "adapter_model.safetensors", "--json").stdout)

    assert (record["dialect"], record["file"], record["scale"]) == ("peft", str(folder), [0.5, 0.5])
    assert beside["scale"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.bin", b"\x80\x02}q\0.", "pickle"),
        ("a.safetensors", b"PK\x03\x04" + b"\0" * 600, "pickle"),
        ("a.safetensors", b"<!DOCTYPE html><html></html>", "html-page"),
        ("a.safetensors", b"", "empty-file"),
    ],
)
def test_a_file_that_is_no_adapter_gets_one_reason_and_no_traceback(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    run, record = ask("inspect", path), ask("inspect", path, "--json")

    assert (run.exit_code, record.exit_code) == (1, 1)
    assert f"refused         {reason}: " in run.stdout or f"refused  {reason}: " in re.sub(" +", "  ", run.stdout)
    assert json.loads(record.stdout)["problem"][0] == reason
    assert "Traceback" not in run.output


def test_a_truncated_file_is_told_to_be_downloaded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((GENUINE / "disney_cloneofsimo.safetensors").read_bytes()[:-100])

    run = ask("inspect", path)

    assert run.exit_code == 1
    assert "truncated: " in run.stdout
    assert "download the file again" in run.stdout


@pytest.mark.parametrize("missing", ["nowhere.safetensors", "empty", "only_pickles"])
def test_a_path_without_adapters_ends_with_status_2_and_one_line(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only_pickles").mkdir()
    (tmp_path / "only_pickles" / "a.pt").write_bytes(b"x")

    run = ask("inspect", tmp_path / missing)

    assert (run.exit_code, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert str(tmp_path / missing) in run.stderr
    assert ("never opened" in run.stderr) == (missing == "only_pickles")


def test_a_file_that_may_not_be_read_is_told_and_the_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_kohya(tmp_path / f"{name}.safetensors", small_adapter(), {"ss_base_model_version": "sd_v1"})
    opened = os.open

    def refuse(path: str | Path, *how: int) -> int:
        if Path(path).name == "a.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how)

    monkeypatch.setattr(os, "open", refuse)
    records = json.loads(ask("inspect", tmp_path, "--json").stdout)

    assert [record["problem"] and record["problem"][0] for record in records] == ["unreadable", None]
    assert (ask("inspect", tmp_path).exit_code, ask("inspect", tmp_path / "a.safetensors").exit_code) == (1, 1)
    assert ask("rewrite", tmp_path / "a.safetensors", "--dialect", "peft", "-o", tmp_path / "out").exit_code == 1


def test_a_base_that_is_given_is_compared_with(tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "my-base", unet=SMALL_UNET)
    from tests.stand_ins.adapter_files import small_base

    path = write_kohya(tmp_path / "a.safetensors", random_adapter(small_base(), match="attn"))

    alone, given = ask("inspect", path, "--json"), ask("inspect", path, "--base", folder, "--json")

    assert (alone.exit_code, json.loads(alone.stdout)["problem"][0]) == (1, "base-unknown")
    assert "--base" in json.loads(alone.stdout)["problem"][1]
    assert (given.exit_code, json.loads(given.stdout)["base"]) == (0, "my-base")
    assert ask("inspect", path, "--base", tmp_path / "nowhere").exit_code == 2


def test_an_adapter_of_two_equal_architectures_is_undecided_and_says_what_would_decide(tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    flux_file(path)

    run, record = ask("inspect", path), json.loads(ask("inspect", path, "--json").stdout)

    assert run.exit_code == 0
    assert "undecided between flux1-dev, flux1-schnell" in run.stdout
    assert "A base label in the catalogue's entry" in run.stdout
    assert (record["base"], record["family"], record["rivals"]) == (None, "flux", ["flux1-dev", "flux1-schnell"])


def flux_file(path: Path) -> Adapter:
    """Writes an adapter of Flux whose header says nothing of the base."""
    adapter = small_adapter(
        BASES["flux1-dev"], match=r"context_embedder|:single_transformer_blocks\.\d\.proj_out", count=3
    )
    [start] = write_adapter(
        adapter, path.parent, dialect="kohya", base=BASES["flux1-dev"], stem="with-words", metadata={}
    )
    file = open_weight_file(start)
    from safetensors.torch import save_file

    save_file({name: file.read(name) for name in file.tensors}, path)
    start.unlink()
    return adapter


# rewrite


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
