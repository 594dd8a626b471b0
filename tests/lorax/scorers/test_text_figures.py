"""What figures of text say of conversions whose worth is known: the adapter itself, nothing, a flipped one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from lorax.adapter import Adapter
from lorax.answers import ANSWERS
from lorax.geometry import LOG_PROBABILITIES
from lorax.probe_look import TOKENS
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard
from lorax.score_settings import ScoreSettings
from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, Figure, interval
from lorax.scorers import SCORERS
from lorax.tally import Tally
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import LETTERS, SETTINGS, TextPair, make_text_base, open_text_pair

PROBE = replace(SETTINGS, samples=24)
TEXT_FIGURES = {"divergence", "exact_match", "perplexity", "predicted_gain", "sample_loss"}


def scaled(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.updates.items()}
    return replace(adapter, updates=updates)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> TextPair:
    """Returns one language model as source and as target."""
    folder = make_text_base(tmp_path_factory.mktemp("text-twins") / "letters", seed=1)
    return open_text_pair(folder, folder)


@pytest.fixture(scope="module")
def card(twins: TextPair, tmp_path_factory: pytest.TempPathFactory) -> ScoreCard:
    adapter = make_adapter(twins.source.base, match="", strength=3.0)
    folder = tmp_path_factory.mktemp("files")
    model = twins.source_model
    with model.patched(adapter):
        written = model.samples(("a",) * 60, settings=PROBE, seed=77)
    (folder / "written.txt").write_text("".join(map(model.tokenizer.decode, written.clamp(0, len(LETTERS) - 1))))
    (folder / "questions.txt").write_text("\n".join(f"{first}{second}" for first in "abcd" for second in "efgh"))
    settings = ScoreSettings(predict=str(folder / "written.txt"), questions=str(folder / "questions.txt"))
    bench = ScoreBench(twins.source_model, twins.target_model, settings=PROBE, score=settings)
    return bench.score(adapter, {"converted": adapter, "flipped": scaled(adapter, -1), "weak": scaled(adapter, 0.3)})


def test_the_very_same_adapter_on_the_very_same_base_does_all_that_it_did(card: ScoreCard) -> None:
    own = card.figures["converted"]

    assert set(own) >= TEXT_FIGURES
    assert own["sample_loss"] == Figure.exact(1.0)
    assert own["divergence"].value == pytest.approx(0.0, abs=1e-6)
    assert own["predicted_gain"] == Figure.exact(1.0)
    assert own["exact_match"] == Figure.exact(1.0)


def test_nothing_is_worth_nothing(card: ScoreCard) -> None:
    nothing = card.figures["zero"]

    assert nothing["sample_loss"] == Figure.exact(0.0)
    assert nothing["predicted_gain"] == Figure.exact(0.0)
    assert nothing["divergence"].value > 0.1
    assert nothing["exact_match"].value < 0.5
    assert nothing["perplexity"].value > 1.1 * card.figures["converted"]["perplexity"].value


def test_a_flipped_adapter_is_worse_than_nothing(card: ScoreCard) -> None:
    flipped, nothing = card.figures["flipped"], card.figures["zero"]

    assert flipped["sample_loss"].high < 0
    assert flipped["predicted_gain"].high < 0
    assert flipped["divergence"].value > nothing["divergence"].value
    assert flipped["perplexity"].value > nothing["perplexity"].value


def test_a_weaker_copy_lies_between_nothing_and_everything(card: ScoreCard) -> None:
    weak = card.figures["weak"]

    assert 0.1 < weak["sample_loss"].value < 0.9
    assert 0.1 < weak["predicted_gain"].value < 0.9
    assert 0 < weak["divergence"].value < card.figures["zero"]["divergence"].value


def anchors(**tensors: torch.Tensor) -> Anchors:
    names = {"source": SOURCE, "adapted": ADAPTED, "target": TARGET}
    runs: dict[str, Callable[[], torch.Tensor]] = {
        names.get(name, name): partial(torch.clone, tensor) for name, tensor in tensors.items()
    }
    return Anchors(runs, LOG_PROBABILITIES)


def test_the_sample_loss_is_that_of_the_tokens_that_were_written() -> None:
    even, sure = torch.full((1, 4), 0.25).log(), torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()
    half = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    seen = anchors(adapted=sure, target=even, **{TOKENS: torch.tensor([[0]])})

    found = SCORERS["sample_loss"].terms(seen, half)

    assert found.tolist() == [pytest.approx([torch.tensor(2.0).log().item(), torch.tensor(2.8).log().item()])]


def test_the_divergence_is_in_nats_per_token() -> None:
    sure = torch.tensor([[0.5, 0.5, 0.0]]).clamp_min(1e-20).log()
    even = torch.full((1, 3), 1 / 3).log()

    found = SCORERS["divergence"].terms(anchors(adapted=sure.repeat(5, 1)), even.repeat(5, 1)).sum(0)

    assert SCORERS["divergence"].figure(found).item() == pytest.approx(torch.tensor(1.5).log().item(), rel=1e-5)


def test_a_gain_that_the_adapter_does_not_have_at_home_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    sums = {
        "certain": torch.stack([noise, noise + 2], dim=1),
        "noise": torch.stack([noise, noise - noise.mean()], dim=1),
        "harmful": torch.stack([noise, noise - 2], dim=1),
        "a single sample": torch.tensor([[1.0, 2.0]], dtype=torch.float64),
    }
    found = Tally({name: {"predicted_gain": sums[name], "sample_loss": sums[name]} for name in sums}).figures()

    assert {name: set(figures) for name, figures in found.items()} == {
        "certain": {"predicted_gain", "sample_loss"},
        "noise": set(),
        "harmful": set(),
        "a single sample": set(),
    }


def test_what_is_barely_defined_is_finite_all_the_same() -> None:
    sums = torch.tensor([[1.0, 0.0], [-1.0, -3.0]], dtype=torch.float64)

    found = interval(SCORERS["predicted_gain"].figure, sums)

    assert all(torch.isfinite(torch.tensor([found.value, found.low, found.high])))


def test_answers_that_the_file_gives_count_before_those_of_source_and_adapter() -> None:
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = torch.tensor([[1.0, 2.0], [7.0, 8.0]])
    given = torch.tensor([[-1.0, -1.0], [7.0, 8.0]])

    terms = SCORERS["exact_match"].terms(anchors(adapted=wanted, **{ANSWERS: given}), found)

    assert terms.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_source_and_adapter_are_not_asked_where_the_file_answers_everything() -> None:
    given = torch.tensor([[5.0, 6.0]])

    terms = SCORERS["exact_match"].terms(anchors(**{ANSWERS: given}), torch.tensor([[5.0, 7.0]]))

    assert terms.tolist() == [[0.0, 1.0]]


def test_figures_of_text_are_for_language_models_only() -> None:
    found = {name for name, scorer in SCORERS.items() if "diffusion" not in scorer.kinds}

    assert found >= TEXT_FIGURES
    assert all(SCORERS[name].kinds == ("language",) for name in TEXT_FIGURES)
