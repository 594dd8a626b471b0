from __future__ import annotations

import copy

import pytest

from lorax.errors import REASONS, BadFile, LoraxError, Refused, Stop, TryLater, Unsupported


def test_an_error_carries_its_reason_message_and_place() -> None:
    error = BadFile("truncated", "the file ends early", where="bold.safetensors")

    assert (error.reason, error.message, error.where) == ("truncated", "the file ends early", "bold.safetensors")
    assert str(error) == "bold.safetensors: the file ends early"
    assert str(Unsupported("unknown-dialect", "no names")) == "no names"


@pytest.mark.parametrize("kind", [Refused, BadFile, Unsupported, TryLater])
def test_a_reason_that_nobody_wrote_down_is_a_programming_error(kind: type[BadFile]) -> None:
    with pytest.raises(KeyError):
        kind("no-such-reason", "text")


def test_errors_are_rebuilt_whole_on_the_other_side_of_a_process_border() -> None:
    error = copy.copy(TryLater("out-of-memory", "no room", where="site 4"))

    assert type(error) is TryLater
    assert (error.reason, error.message, error.where) == ("out-of-memory", "no room", "site 4")


def test_the_tree_sorts_errors_by_what_to_do_next() -> None:
    assert issubclass(BadFile, Refused)
    assert issubclass(Unsupported, Refused)
    assert not issubclass(TryLater, Refused)
    assert not issubclass(Stop, Refused)
    assert all(issubclass(kind, LoraxError) for kind in (Refused, TryLater, Stop))


def test_an_error_can_be_told_about_another_place() -> None:
    error = Unsupported("base-unknown", "no base", where="/store/ab/cd").at("bold.safetensors")

    assert type(error) is Unsupported
    assert (error.reason, str(error)) == ("base-unknown", "bold.safetensors: no base")


def test_every_reason_is_a_sentence_for_people() -> None:
    for code, sentence in REASONS.items():
        assert code == code.lower()
        assert " " not in code
        assert sentence[0].isupper()
        assert sentence.endswith(".")


@pytest.mark.parametrize("text", ["\x1b[2J", "\ud800", "a\rb", "\u202e"])
def test_what_a_stranger_wrote_cannot_move_a_terminal_nor_break_a_log(text: str) -> None:
    problem = BadFile("bad-name", f"tensor {text} is odd", where=f"folder/{text}")

    assert str(problem).isprintable()
    str(problem).encode()
    assert "is odd" in str(problem)
