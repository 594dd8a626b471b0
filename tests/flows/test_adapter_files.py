"""`lorax inspect`, as a user calls it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from flows import adapter_files as command
from flows import rewriting
from lorax.weight_file import WeightFile
from tests.stand_ins.adapter_commands import (
    BASES,
    GENUINE,
    REPOSITORY,
    ask,
    flux_file,
    small_adapter,
    written,
)
from tests.stand_ins.adapter_files import SMALL_UNET, random_adapter, write_base_folder, write_kohya


@pytest.fixture(autouse=True)
def _bases_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a base are made once for all calls of this process, as they are for all files of a folder."""
    for module in (command, rewriting):
        monkeypatch.setattr(module, "known_bases", lambda: tuple(BASES.values()))


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
