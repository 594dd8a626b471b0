from __future__ import annotations

import io

from rich.console import Console

from flows.progress import Bars, Lines, watched_by, watcher


def test_lines_tell_of_a_stage_when_it_is_over() -> None:
    said: list[str] = []
    with Lines(said.append).stage("score", 12) as stage:
        stage.reach(3)
        assert said == []
    assert said[0].startswith("score     12 done in ")


def test_bars_show_every_stage_with_its_count() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = Bars(console)
    with bars.shown(), bars.stage("convert", 8) as stage:
        stage.reach(8)
        bars.say("one line")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "convert" in shown
    assert "8/8" in shown
    assert "one line" in shown


def test_a_flow_finds_the_watcher_of_the_command_that_started_it() -> None:
    said: list[str] = []
    mine = Lines(said.append)
    with watched_by(mine):
        assert watcher(print) is mine
    watcher(said.append).say("nobody else is watching")
    assert said == ["nobody else is watching"]
