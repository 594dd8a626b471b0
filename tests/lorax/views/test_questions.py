from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorax.answers import ANSWERS, answers
from lorax.errors import Stop
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings
from lorax.view import Look, Scene
from lorax.views import VIEWS
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import LETTERS, SETTINGS, TextPair, text_lineage  # noqa: F401 - fixture

# ruff: noqa: F811

PROMPTS = ["abc", "d", "ee", "fgh", "i"]


def opened(pair: TextPair, file: Path, *, batch: int = 80) -> Look:
    settings = ScoreSettings(questions=str(file))
    adapter = make_adapter(pair.source.base, match="")
    scene = Scene(pair.source_model, pair.target_model, adapter, SETTINGS, settings=settings, batch=batch)
    return VIEWS["questions"].open(scene)["questions"]


def asked(folder: Path, *lines: object) -> Path:
    file = folder / "questions.txt"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_equal_answers_are_seen_as_equal_numbers_and_others_as_others(text_lineage: TextPair, tmp_path: Path) -> None:
    look = opened(text_lineage, asked(tmp_path, *PROMPTS, "d"), batch=2)
    model = text_lineage.source_model

    seen = torch.cat([look.see(model, None, rows) for rows in look.batches()])
    short_first = sorted([*PROMPTS, "d"], key=len)
    said = answers(model, [model.tokenizer(prompt).input_ids for prompt in short_first], most=32)

    assert seen.shape == (6, 2)
    assert look.group.tolist() == list(range(6))
    for first in range(6):
        for second in range(6):
            assert torch.equal(seen[first], seen[second]) == (said[first] == said[second])
    assert torch.equal(seen[0], seen[2])  # "d", asked twice
    assert len(set(said)) > 2


def test_an_answer_that_the_file_gives_is_seen_as_a_model_that_says_it(text_lineage: TextPair, tmp_path: Path) -> None:
    model = text_lineage.source_model
    [said] = answers(model, [model.tokenizer("cg").input_ids], most=32)
    assert len(said) < 32  # the model ends it
    file = asked(tmp_path, {"prompt": "cg", "answer": f" {said}\n"}, {"prompt": "d"}, {"prompt": "eee", "answer": "b"})
    look = opened(text_lineage, file)
    [rows] = look.batches()

    seen, given = look.see(model, None, rows), look.given(rows)[ANSWERS]

    assert given[0].tolist() == [-1, -1]  # "d", the shortest
    assert torch.equal(given[1], seen[1])
    assert not torch.equal(given[2], seen[2])


def test_an_answer_has_room_for_the_longest_that_the_file_gives(text_lineage: TextPair, tmp_path: Path) -> None:
    model = text_lineage.source_model
    [said] = answers(model, [model.tokenizer("d").input_ids], most=45)
    assert len(said) > 40

    short = opened(text_lineage, asked(tmp_path, "d"))
    seen_short = short.see(model, None, slice(0, 1))
    look = opened(text_lineage, asked(tmp_path, {"prompt": "d"}, {"prompt": "e", "answer": said}))

    assert not torch.equal(look.see(model, None, slice(0, 1)), seen_short)


def test_the_share_of_equal_answers_is_the_figure(text_lineage: TextPair, tmp_path: Path) -> None:
    source, target = text_lineage.source_model, text_lineage.target_model
    adapter = make_adapter(text_lineage.source.base, match="", strength=3.0)
    prompts = [first + second for first in LETTERS for second in "abc"]
    settings = ScoreSettings(questions=str(asked(tmp_path, *prompts)))

    figures = ScoreBench(source, target, settings=SETTINGS, score=settings).score(adapter, {"copy": adapter}).figures

    starts = [source.tokenizer(prompt).input_ids for prompt in prompts]
    with source.patched(adapter):
        wanted = answers(source, starts, most=32)
    with target.patched(adapter):
        copied = answers(target, starts, most=32)
    plain = answers(target, starts, most=32)
    for name, said in (("copy", copied), ("zero", plain)):
        equal = sum(one == other for one, other in zip(wanted, said, strict=True))
        assert figures[name]["exact_match"].value == pytest.approx(equal / len(prompts))


def test_without_a_file_there_is_nothing_to_ask(text_lineage: TextPair) -> None:
    adapter = make_adapter(text_lineage.source.base, match="")
    scene = Scene(text_lineage.source_model, text_lineage.target_model, adapter, SETTINGS)

    assert VIEWS["questions"].open(scene) == {}


def test_prompts_without_a_token_or_with_too_many_are_named(text_lineage: TextPair, tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"questions\.txt, line 2: the prompt has 0 tokens; expected are 1 to 32"):
        opened(text_lineage, asked(tmp_path, "a", "???"))
    with pytest.raises(Stop, match=r"questions\.txt, line 3: the prompt has 33 tokens; expected are 1 to 32"):
        opened(text_lineage, asked(tmp_path, "a", "", "b" * 33))
    assert len(opened(text_lineage, asked(tmp_path, "a", "b" * 32)).group) == 2
