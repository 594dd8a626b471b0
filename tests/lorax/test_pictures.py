"""Figures that come from pictures: what encoders see, drawn once, of every model, from equal noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel
from lorax.encoder import Encoder
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings
from lorax.view import Scene
from lorax.views import VIEWS
from tests.stand_ins.pairs import SETTINGS, Pair, lineage, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter

PICTURE_VIEWS = [name for name in VIEWS if name.startswith("pictures")]
COUNT = 4


class Pixels(Encoder):
    """Sees a picture as the numbers that it is made of."""

    def __init__(self, asks: str = "likeness", *, reads: bool = False) -> None:
        self.asks, self._reads = asks, reads
        self.seen = 0
        self.read: list[str] = []

    def pictures(self, pixels: Tensor) -> Tensor:
        self.seen += 1
        return normalize(pixels.flatten(1).float() - 127)

    def words(self, prompts: Sequence[str]) -> Tensor | None:
        return normalize(torch.ones(len(prompts), 64)) if self._reads else None

    def preferences(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor | None:
        self.read = list(prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return pixels.float().mean((1, 2, 3)) + lengths if self.asks == "preference" else None


ENCODERS = {
    "grown": Pixels(reads=True),
    "plain": Pixels(),
    "style": Pixels("style", reads=True),
    "taste": Pixels("preference", reads=True),
}


def bench(pair: Pair, *, pictures: int = COUNT, encoders: dict[str, Encoder] | None = None) -> ScoreBench:
    settings = ScoreSettings(pictures=pictures)
    found = dict(ENCODERS) if encoders is None else encoders
    return ScoreBench(pair.source_model, pair.target_model, settings=SETTINGS, score=settings, encoders=found)


def scaled(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.updates.items()}
    return replace(adapter, updates=updates)


def scene(pair: Pair, **changes: object) -> Scene:
    wanted: dict[str, object] = {"settings": ScoreSettings(pictures=COUNT), "encoders": ENCODERS, **changes}
    adapter = make_adapter(pair.source.base)
    words = ("a digit, bold style", "a handwritten one")
    return Scene(pair.source_model, pair.target_model, adapter, SETTINGS, words, **wanted)  # type: ignore[arg-type]


def test_each_encoder_gives_the_figures_of_what_it_is_asked_about_and_no_other(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)

    card = bench(lineage).score(adapter, {"converted": adapter})

    for figures in card.figures.values():
        assert {name for name in figures if ":" in name} == {
            "likeness:grown",
            "likeness:plain",
            "diversity:grown",
            "diversity:plain",
            "prompt_agreement:grown",
            "style:style",
            "preference:taste",
        }
        assert all(figure.low <= figure.high for figure in figures.values())


def test_the_very_same_pictures_score_one_or_no_difference_and_the_plain_target_nothing(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=3)

    figures = bench(twins).score(adapter, {"converted": adapter, "flipped": scaled(adapter, -1.0)}).figures

    own, zero, flipped = (figures[name] for name in ("converted", "zero", "flipped"))
    for name in ("likeness:plain", "style:style"):
        assert own[name].value == pytest.approx(1.0, abs=1e-6)
        assert zero[name].value == 0.0
        assert flipped[name].value < 0.0
    assert own["diversity:plain"].value == pytest.approx(1.0, abs=1e-6)
    for name in ("prompt_agreement:grown", "preference:taste"):
        assert own[name].value == 0.0
        assert zero[name].value != 0.0


def test_a_weaker_copy_is_more_alike_than_nothing_and_less_than_the_whole(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=3)

    figures = bench(twins).score(adapter, {"weak": scaled(adapter, 0.5)}).figures

    assert 0.1 < figures["weak"]["likeness:plain"].value < 0.95


def test_pictures_are_drawn_once_for_all_encoders_and_seen_once_by_each(
    lineage: Pair,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoders: dict[str, Encoder] = {
        "grown": Pixels(reads=True),
        "style": Pixels("style"),
        "taste": Pixels("preference"),
    }
    adapter, drawn = make_adapter(lineage.source.base), []
    draw = DiffusionModel.to_images

    def counted(model: DiffusionModel, latents: Tensor) -> Tensor:
        drawn.append(len(latents))
        return draw(model, latents)

    monkeypatch.setattr(DiffusionModel, "to_images", counted)

    bench(lineage, encoders=encoders).score(adapter, {"converted": scaled(adapter, 0.9), "copy": scaled(adapter, 1.1)})

    # source+adapter, target, and both candidates
    assert drawn == [COUNT] * 4
    assert [each.seen for each in encoders.values() if isinstance(each, Pixels)] == [4, 4, 0]


def test_another_adapter_and_another_seed_get_pictures_of_their_own(lineage: Pair) -> None:  # noqa: F811
    first = scene(lineage)
    others = [replace(first, adapter=make_adapter(lineage.source.base, seed=5))]
    others.append(replace(first, probe=replace(SETTINGS, seed=9)))

    def points(of: Scene) -> Tensor:
        return VIEWS["pictures"].open(of)["pictures:plain"].see(of.source, of.adapter, slice(None))

    assert torch.equal(points(first), points(replace(first)))
    for other in others:
        assert not torch.allclose(points(first), points(other))


def test_source_and_target_start_from_equal_noise(twins: Pair) -> None:  # noqa: F811
    look = VIEWS["pictures"].open(scene(twins))["pictures:plain"]

    assert torch.equal(look.see(twins.source_model, None, slice(None)), look.see(twins.target_model, None, slice(None)))


def test_prompts_go_round_and_are_given_to_scorers_that_hold_pictures_against_them(lineage: Pair) -> None:  # noqa: F811
    taste = Pixels("preference")
    found = scene(lineage, encoders={"taste": taste, "grown": Pixels(reads=True)})
    liked = VIEWS["pictures-taste"].open(found)["pictures-taste:taste"].see(found.source, None, slice(None))
    words = VIEWS["pictures-words"].open(found)["pictures-words:grown"].given(slice(1, 3))

    assert liked.shape == (COUNT, 1)
    assert taste.read == ["a digit, bold style", "a handwritten one"] * 2
    assert words["prompts"].shape == (2, 64)


@pytest.mark.parametrize("view", PICTURE_VIEWS)
@pytest.mark.parametrize(
    "changes", [{"encoders": {}}, {"settings": ScoreSettings(pictures=0)}], ids=["no encoder", "no pictures wanted"]
)
def test_without_encoders_or_pictures_there_is_nothing_to_look_at(
    view: str,
    changes: dict[str, object],
    lineage: Pair,  # noqa: F811
) -> None:
    assert VIEWS[view].open(scene(lineage, **changes)) == {}


def test_models_that_draw_no_pictures_have_no_such_look(lineage: Pair) -> None:  # noqa: F811
    class Writes:
        kind = "language"

    writes = Writes()

    for view in PICTURE_VIEWS:
        assert VIEWS[view].open(replace(scene(lineage), source=writes, target=writes)) == {}  # type: ignore[arg-type]


def test_the_pictures_of_one_latent_are_one_sample(
    lineage: Pair,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames of a video are no more independent than noise levels of a picture."""
    draw = DiffusionModel.to_images
    monkeypatch.setattr(DiffusionModel, "pictures", 3)
    monkeypatch.setattr(DiffusionModel, "to_images", lambda self, latents: draw(self, latents).repeat_interleave(3, 0))
    found = scene(lineage)

    look = VIEWS["pictures"].open(found)["pictures:plain"]

    assert look.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert look.see(found.source, None, slice(None)).shape == (3 * COUNT, 64)
    assert VIEWS["pictures-words"].open(found)["pictures-words:grown"].given(slice(None))["prompts"].shape[0] == 12


def test_a_target_that_draws_as_source_and_adapter_do_already_leaves_no_way_to_close(twins: Pair) -> None:  # noqa: F811
    nothing = scaled(make_adapter(twins.source.base), 0.0)

    figures = bench(twins).score(nothing, {"converted": nothing}).figures["converted"]

    assert "likeness:plain" not in figures
    assert "diversity:plain" in figures
