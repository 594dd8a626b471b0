from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorax.answers import answers, one_line
from lorax.language_model import LanguageModel, TextParts, load_language_model
from tests.stand_ins.tiny_texts import TextPair, make_text_base, text_lineage  # noqa: F401 - fixture

# ruff: noqa: F811

BREAK, SPACE = "Ċ", "Ġ"
"""How a byte-level tokenizer writes a line break and a space."""


class Parrot(torch.nn.Module):
    """Says, whatever it is asked, the tokens of a script one after the other; the first token picks the script."""

    def __init__(self, scripts: dict[int, list[int]], width: int) -> None:
        super().__init__()
        self.scripts, self.width = scripts, width
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps = 0

    def forward(self, input_ids: torch.Tensor, past_key_values: Any, **_: Any) -> Any:
        heard = past_key_values or {"asked": input_ids[:, 0].tolist(), "said": 0}
        script = [self.scripts[first] for first in heard["asked"]]
        logits = torch.zeros(*input_ids.shape, self.width)
        for row, words in enumerate(script):
            logits[row, -1, words[heard["said"] % len(words)]] = 1
        self.steps += 1
        return SimpleNamespace(logits=logits, past_key_values={**heard, "said": heard["said"] + 1})


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    letters = f"abcdefghijklm{BREAK}{SPACE}."
    return load_language_model(make_text_base(tmp_path_factory.mktemp("talker") / "letters", seed=1, letters=letters))


def parrot(talker: LanguageModel, **scripts: str) -> tuple[LanguageModel, Parrot]:
    """Returns a model that answers each first letter by a script, `$` being the end of a text."""
    tokens = {first: [talker.tokenizer(each).input_ids for each in text] for first, text in scripts.items()}
    ends = talker.tokenizer.eos_token_id
    said = {
        talker.tokenizer(first).input_ids[0]: [token[0] if token else ends for token in words]
        for first, words in tokens.items()
    }
    model = Parrot(said, width=len(talker.tokenizer))
    return LanguageModel(TextParts(model, talker.tokenizer)), model


def starts(talker: LanguageModel, *prompts: str) -> list[list[int]]:
    return [talker.tokenizer(prompt).input_ids for prompt in prompts]


def test_answers_are_those_of_greedy_generation_by_transformers(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    prompts = ["abc", "dd", "a", "ee", "ponm", "fg", "a" * 11, "b" * 30, "abcd" * 7]

    found = answers(model, starts(model, *prompts), most=10)

    for prompt, answer in zip(prompts, found, strict=True):
        tokens = model.tokenizer(prompt, return_tensors="pt")
        wanted = model.model.generate(**tokens, do_sample=False, max_new_tokens=10, pad_token_id=0)[0]
        assert answer == model.tokenizer.decode(wanted[tokens.input_ids.shape[1] :], skip_special_tokens=True)
    assert len(set(found)) > 1


def test_an_answer_ends_where_the_model_ends_it(talker: LanguageModel) -> None:
    model, _ = parrot(talker, a="bc$dd", b="$cc")

    assert answers(model, starts(talker, "a", "b"), most=5) == ["bc", ""]


def test_an_answer_ends_with_the_line_of_its_first_word(talker: LanguageModel) -> None:
    model, _ = parrot(talker, a="\n\n bc d\nee")

    assert answers(model, starts(talker, "a"), most=9) == ["bc d"]


def test_an_answer_ends_after_the_most_tokens(talker: LanguageModel) -> None:
    model, spoken = parrot(talker, a="bcd")

    assert answers(model, starts(talker, "a"), most=7) == ["bcdbcdb"]
    assert spoken.steps == 7


def test_starts_of_about_equal_length_are_run_together(talker: LanguageModel) -> None:
    model, spoken = parrot(talker, a="bcdefghijk")

    answers(model, starts(talker, "a", "ab", "abc", "abcd"), most=3)

    assert spoken.steps == 3 + 3  # the longest is read three steps later, and all are written in three

    spoken.steps = 0
    answers(model, starts(talker, "a", "abcde"), most=3)

    assert spoken.steps == 3 + 3  # too far apart to be one batch


def test_nothing_is_run_once_every_answer_has_ended(talker: LanguageModel) -> None:
    model, spoken = parrot(talker, a="b\nccccc", b="bcd$aaaaaa")

    assert answers(model, starts(talker, "ba", "ab"), most=30) == ["bcd", "b"]
    assert spoken.steps == 4


def test_a_token_that_ends_turns_of_a_chat_ends_an_answer(talker: LanguageModel) -> None:
    model, spoken = parrot(talker, a="bc.dd")
    spoken.generation_config = SimpleNamespace(eos_token_id=talker.tokenizer(".").input_ids)  # type: ignore[assignment]

    assert answers(model, starts(talker, "a"), most=5) == ["bc"]


def test_only_words_count() -> None:
    assert one_line("\n  a  b\tc \r\nd") == "a b c"
    assert one_line(" \n ") == ""
