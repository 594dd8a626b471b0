"""How conversions are scored, besides how probes are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """What scores are made of, and how much may be spent on one.

    levels: noise levels at which models that draw are looked at, low ones among them, since most of what an adapter
    does to a picture is decided there; pictures: how many are drawn for encoders to look at; predict: file of text
    (UTF-8) that language models are to predict, "" for none; questions: file of prompts, one a line, that language
    models are to answer as source+adapter does, "" for none; harness: tasks of lm-evaluation-harness, harness_tasks: a
    folder with further ones, harness_limit: questions per task, 0 for all; rounds: how many times a probe is drawn
    again, each time as many samples as there are already, while the verdict is uncertain.
    """

    levels: tuple[int, ...] = (50, 150, 300, 500, 750)
    pictures: int = 8
    predict: str = ""
    questions: str = ""
    harness: tuple[str, ...] = ()
    harness_tasks: str = ""
    harness_limit: int = 0
    rounds: int = 2
