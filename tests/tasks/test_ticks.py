from __future__ import annotations

from tasks.ticks import listening, tick


def test_ticks_are_heard_while_somebody_listens() -> None:
    heard: list[tuple[str, float]] = []
    tick("score")
    with listening(lambda stage, share: heard.append((stage, share))):
        tick("score")
        tick("plan", 0.5)
    tick("score")
    assert heard == [("score", 1.0), ("plan", 0.5)]
