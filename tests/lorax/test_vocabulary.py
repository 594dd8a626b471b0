from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorax.errors import Stop
from lorax.vocabulary import shared_rows, vocabulary

ADDED = [{"id": 2, "content": "<end>", "special": True}]


TABLE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
LIST = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}


@pytest.mark.parametrize("model", [TABLE, LIST], ids=["table", "list"])
def test_the_tokens_of_a_fast_tokenizer_are_read_with_those_that_were_added(
    model: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": ADDED}))

    assert vocabulary(tmp_path) == {"a": 0, "b": 1, "<end>": 2}


def test_a_plain_table_serves_where_there_is_no_fast_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))

    assert vocabulary(tmp_path) == {"a": 0, "b": 1}


def test_a_folder_without_a_tokenizer_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"neither tokenizer.json nor vocab.json.*put the tokenizer's files"):
        vocabulary(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"model": {"type": "BPE"}}', '{"model": {"vocab": {"a": "x"}}}'])
def test_a_damaged_tokenizer_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(Stop, match=r"tokenizer.json: no vocabulary can be read"):
        vocabulary(tmp_path)


def test_tokens_are_paired_by_what_they_say_and_not_by_their_numbers() -> None:
    here, there = shared_rows({"a": 0, "b": 1, "c": 2}, {"c": 0, "x": 1, "a": 5})

    assert (here.tolist(), there.tolist()) == ([2, 0], [0, 5])


def test_vocabularies_with_nothing_in_common_share_no_rows() -> None:
    here, there = shared_rows({"a": 0}, {"b": 0})

    assert (len(here), len(there)) == (0, 0)
