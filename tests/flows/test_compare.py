from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.command_line import app
from flows.heat_map import cells
from lorax.base_models import known_bases
from lorax.checkpoint import open_checkpoint
from lorax.comparison import compare_bases, compare_checkpoints
from lorax.correspondence import WITHOUT_SOURCE
from lorax.correspondences import RULES

FIGURE = re.compile(r"(?<![\w.-])-?\d+\.\d\d(?!\d)")
PNG = b"\x89PNG\r\n\x1a\n"


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(each) for each in arguments)])


def test_two_folders_are_compared_with_their_weights(digits: Path) -> None:
    run = ask(digits / "bases" / "digits-v1", digits / "bases" / "digits-other")
    assert run.exit_code == 0, run.output
    assert "185 of 185 have a source (100.0%), 185 of them in the same shape" in run.output
    assert "likeness  strangers" in run.output
    assert "weight distance" in run.output
    assert "nothing or harm" in run.output


def test_what_has_no_home_is_told(digits: Path) -> None:
    output = ask(digits / "bases" / "digits-v1", digits / "bases" / "digits-slim").output
    assert "55 of the source without a home, in its down 2, mid, up 0" in output


def test_known_bases_are_compared_by_shape_alone() -> None:
    output = ask("sd1.5", "sdxl").output
    assert "274 of 1059 have a source (25.9%), 230 of them in the same shape" in output
    assert "no-source-block" in output
    assert "weight distance" not in output


def test_a_base_may_be_called_by_the_name_of_its_repository() -> None:
    record = json.loads(ask("stabilityai/stable-diffusion-xl-base-1.0", "segmind/SSD-1B", "--json").stdout)
    assert (record["source"], record["target"]) == ("sdxl", "ssd-1b")


def test_the_record_is_json_and_nothing_else(digits: Path) -> None:
    record = json.loads(ask(digits / "bases" / "digits-v1", digits / "bases" / "digits-v2", "--json").stdout)
    assert record["case"] == "lineage"
    assert record["share_with_source"] == 1.0
    assert len(record["sites"]) == 185
    assert all(0 < site["weight_distance"] < 0.5 for site in record["sites"])


@pytest.mark.parametrize(
    "pair", ["digits-v1 digits-v2", "digits-v1 digits-other", "digits-v1 digits-slim", "sd1.5 sdxl"]
)
def test_the_page_shows_what_the_command_prints(pair: str, digits: Path, repository: Path) -> None:
    page = (repository / "docs" / "comparing.md").read_text(encoding="utf-8")
    shown = page.partition(f"$ lorax compare {pair}\n")[2].partition("```")[0]
    folders = {path.name: path for path in (digits / "bases").iterdir()}
    printed = ask(*(folders.get(name, name) for name in pair.split())).output

    assert FIGURE.sub("#", shown).split() == FIGURE.sub("#", printed).split()
    figures = [[float(found) for found in FIGURE.findall(text)] for text in (shown, printed)]
    # Libraries of linear algebra differ in the last digit, and rounding to two places makes that one in a hundred.
    assert figures[0] == pytest.approx(figures[1], abs=0.011)


def test_an_unknown_base_is_refused_with_those_that_are_near() -> None:
    run = ask("sdx", "sdxl")
    assert run.exit_code == 2
    assert "sdxl" in run.stderr
    assert "sdx: there is no such folder or file" in run.stderr


@pytest.mark.parametrize("word", [*RULES, *WITHOUT_SOURCE])
def test_the_page_has_a_row_for_every_rule_and_reason(word: str, repository: Path) -> None:
    page = (repository / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert f"\n| `{word}` |" in page


@pytest.mark.parametrize("name", ["map.gif", "nowhere/map.png"])
def test_a_heat_map_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    run = ask("sd1.5", "sdxl", "--heat-map", tmp_path / name)
    assert run.exit_code == 2
    assert run.stdout == ""


def test_a_heat_map_is_written_in_the_format_of_its_name(tmp_path: Path) -> None:
    for suffix in ("svg", "png", "html"):
        assert ask("llama-3.2-1b", "llama-3.2-3b", "--heat-map", tmp_path / f"map.{suffix}").exit_code == 0
    drawing = (tmp_path / "map.svg").read_text()
    assert "llama-3.2-1b → llama-3.2-3b" in drawing
    assert "mlp.down_proj" in drawing
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)
    page = (tmp_path / "map.html").read_text()
    assert "<svg" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_the_cells_of_a_heat_map_hold_likeness_where_it_was_measured(digits: Path) -> None:
    bases = [open_checkpoint(digits / "bases" / name, name=name) for name in ("digits-v1", "digits-v2")]
    found = {(cell["block"], cell["role"]): cell for cell in cells(compare_checkpoints(*bases))}
    assert found["mid", "attn1.to_q"]["alike"] > 0.5
    assert all(cell["state"] == "same shape" for cell in found.values())
    assert all(0.0 <= cell["alike"] <= 1.0 for cell in found.values())


def test_the_cells_of_a_heat_map_tell_where_some_blocks_have_no_source() -> None:
    bases = {base.name: base for base in known_bases()}
    found = cells(compare_bases(bases["sd1.5"], bases["sdxl"]))
    states = {(cell["block"], cell["role"]): cell["state"] for cell in found}
    assert states["mid", "attn1.to_q"] == "some without source"
    assert states["mid", "attn2.to_k"] == "other shape"
    assert states["mid", "conv1"] == "same shape"
    assert states["text encoder 2", "mlp.fc1"] == "no source"
