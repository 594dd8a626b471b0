from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorax.language_model import NOTHING, LanguageModel, TextParts, TokenProbe
from lorax.probe_look import MOST_BYTES, TOKENS, ProbeLook, at_once, texts_at_once, vocabulary_of
from lorax.view import Scene
from tests.stand_ins.pairs import SETTINGS as DRAWN
from tests.stand_ins.pairs import Pair, twins  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import LETTERS, SETTINGS, TextPair, text_lineage  # noqa: F401 - fixture

# ruff: noqa: F811


class Wide(torch.nn.Module):
    """A last layer over many tokens, of which nothing is stored: what it would take is asked, not taken."""

    def __init__(self, vocabulary: int, *, says: bool = True) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(1))
        self.last = SimpleNamespace(weight=torch.empty(vocabulary, 1, device="meta")) if says else None
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=vocabulary))

    def get_output_embeddings(self) -> Any:
        return self.last


def wide(vocabulary: int, *, says: bool = True) -> LanguageModel:
    return LanguageModel(TextParts(Wide(vocabulary, says=says), tokenizer=None))


def scene(pair: TextPair, source: int, target: int, *, batch: int = 80) -> Scene:
    adapter = make_adapter(pair.source.base, match="")
    return Scene(wide(source), wide(target), adapter, SETTINGS, batch=batch)


@pytest.mark.parametrize(
    ("vocabulary", "length", "texts"),
    [(259, 128, 80), (32_000, 128, 16), (128_256, 128, 4), (262_144, 128, 2), (262_144, 4096, 1)],
)
def test_log_probabilities_that_are_held_at_once_stay_in_bounds(
    text_lineage: TextPair, vocabulary: int, length: int, texts: int
) -> None:
    found = texts_at_once(scene(text_lineage, vocabulary, vocabulary), length=length)

    assert found == texts
    assert found == 1 or found * length * vocabulary * 4 <= MOST_BYTES


def test_the_wider_of_two_vocabularies_counts(text_lineage: TextPair) -> None:
    assert texts_at_once(scene(text_lineage, 1000, 128_256), length=128) == 4
    assert texts_at_once(scene(text_lineage, 128_256, 1000), length=128) == 4


def test_a_model_that_does_not_show_its_last_layer_is_asked_for_its_configuration(text_lineage: TextPair) -> None:
    assert vocabulary_of(wide(77, says=False)) == 77
    assert vocabulary_of(text_lineage.source_model) == len(LETTERS) + 1


def test_texts_are_cut_into_batches_by_what_they_take(text_lineage: TextPair) -> None:
    probe = TokenProbe(torch.zeros(10, 128, dtype=torch.long), torch.ones(10, dtype=torch.long))

    look = ProbeLook(probe, batch=at_once(scene(text_lineage, 128_256, 128_256), probe))

    assert [(rows.start, rows.stop) for rows in look.batches()] == [(0, 4), (4, 8), (8, 10)]


def test_pictures_are_cut_by_the_scene_alone(twins: Pair) -> None:
    adapter = make_adapter(twins.source.base)
    drawn = Scene(twins.source_model, twins.target_model, adapter, DRAWN, batch=7)
    probe = twins.source_model.look_at(
        twins.source_model.samples(("a",) * 2, settings=replace(DRAWN, steps=1), seed=0),
        prompts=("a",) * 2,
        settings=DRAWN,
    )

    assert at_once(drawn, probe) == 7
    assert ProbeLook(probe, batch=7).given(slice(0, 7)) == {}


def test_scorers_get_the_tokens_that_followed_one_for_each_row_of_output(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    tokens = torch.tensor([[0, 1, 2, 3], [4, 5, NOTHING, NOTHING], [6, 7, 8, NOTHING]])
    look = ProbeLook(TokenProbe(tokens, torch.tensor([2, 1, 1])), batch=2)

    given = [look.given(rows)[TOKENS] for rows in look.batches()]
    seen = [look.see(model, None, rows) for rows in look.batches()]

    assert [part.tolist() for part in given] == [[[2], [3], [5]], [[7], [8]]]
    assert [len(part) for part in seen] == [3, 2]
