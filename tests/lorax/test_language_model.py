from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.calibration import collect_statistics
from lorax.diffusion_model import load_diffusion_model
from lorax.errors import Stop
from lorax.language_model import NOTHING, LanguageModel, TokenProbe, load_language_model
from lorax.load_model import load_model, load_pair
from lorax.probes import PROBES
from lorax.score import ScoreBench
from tests.stand_ins.tiny_bases import make_adapter, make_base
from tests.stand_ins.tiny_texts import (  # noqa: F401 - fixtures
    LETTERS,
    SETTINGS,
    TextPair,
    make_text_base,
    text_lineage,
    text_strangers,
    write_tokenizer,
)

# Tiny pairs are fixtures of the session; naming them as arguments is how pytest hands them out.
# ruff: noqa: F811


def texts(model: LanguageModel, seed: int = 0) -> torch.Tensor:
    return model.samples(("abc", "dd", ""), settings=SETTINGS, seed=seed)


def test_texts_continue_their_prompts_and_equal_seeds_give_equal_texts(text_lineage: TextPair) -> None:
    found = texts(text_lineage.source_model)

    assert found.shape == (3, SETTINGS.length)
    assert found[0, :3].tolist() == [0, 1, 2]
    assert found[1, :2].tolist() == [3, 3]
    assert found[2, 0] == len(LETTERS)  # the end token opens a text that has no prompt
    assert torch.equal(found, texts(text_lineage.source_model))
    assert not torch.equal(found, texts(text_lineage.source_model, seed=1))


def test_a_row_of_samples_does_not_depend_on_which_others_are_drawn(text_lineage: TextPair) -> None:
    model, prompts = text_lineage.source_model, ("abc", "dd", "abc", "p")
    whole = model.samples(prompts, settings=SETTINGS, seed=0)

    assert torch.equal(model.samples(prompts, settings=SETTINGS, seed=0, rows=slice(1, None, 2)), whole[1::2])


def test_tokens_are_drawn_as_often_as_the_model_expects_them(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    drawn = model.samples(("a",) * 4000, settings=replace(SETTINGS, length=2), seed=0)[:, 1]
    with torch.no_grad():
        expected = model.model(input_ids=torch.tensor([[0]])).logits[0, -1].softmax(-1)

    seen = torch.bincount(drawn, minlength=len(LETTERS) + 1) / 4000
    assert torch.allclose(seen, expected, atol=0.03)


def test_after_its_end_a_text_holds_nothing_and_counts_for_nothing(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    many = model.samples(("a",) * 200, settings=SETTINGS, seed=0)
    probe = model.look_at(many, prompts=("a",) * 200, settings=SETTINGS)
    ended = (many == len(LETTERS)).any(1)
    first = (many == len(LETTERS)).int().argmax(1)

    assert 0 < ended.sum() < 200
    for row, at in zip(many[ended], first[ended], strict=True):
        assert (row[at + 1 :] == NOTHING).all()
    assert len(probe.group) == int((many != NOTHING).sum()) - 200  # all but the one that was given


def test_a_run_gives_a_prediction_for_each_token_that_was_not_given(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    tokens = torch.tensor([[0, 1, 2, 3], [4, 5, NOTHING, NOTHING]])
    probe = TokenProbe(tokens, torch.tensor([2, 1]))
    with torch.no_grad():
        found = model.run(probe, slice(0, 2))
        theirs = model.model(input_ids=tokens.clamp_min(0)).logits.log_softmax(-1)

    assert probe.group.tolist() == [0, 0, 1]
    assert torch.allclose(found, torch.stack([theirs[0, 1], theirs[0, 2], theirs[1, 0]]), atol=1e-5)


def test_batches_one_after_the_other_are_the_whole(text_lineage: TextPair) -> None:
    model = text_lineage.source_model
    probe = model.look_at(texts(model), prompts=("abc", "dd", ""), settings=SETTINGS)
    with torch.no_grad():
        parts = torch.cat([model.run(probe, rows) for rows in probe.batches(2)])
        whole = model.run(probe, slice(None))

    assert torch.allclose(parts, whole, atol=1e-5)
    assert len(whole) == len(probe.group)


def test_a_patched_model_answers_as_one_with_the_dense_update_in_its_weights(text_lineage: TextPair) -> None:
    model, adapter = text_lineage.source_model, make_adapter(text_lineage.source.base, match="")
    probe = model.look_at(texts(model), prompts=("abc", "dd", ""), settings=SETTINGS)
    with torch.no_grad():
        plain = model.run(probe, slice(None))
        with model.patched(adapter):
            patched = model.run(probe, slice(None))
        for site, update in adapter.updates.items():
            model.module(site).weight.data.add_(update.dense())  # type: ignore[union-attr, operator]
        merged = model.run(probe, slice(None))
        for site, update in adapter.updates.items():
            model.module(site).weight.data.sub_(update.dense())  # type: ignore[union-attr, operator]

    assert not torch.allclose(patched, plain, atol=1e-3)
    assert torch.allclose(patched, merged, atol=1e-4)


def test_neutral_text_is_taken_from_the_file_that_the_settings_name(text_lineage: TextPair, tmp_path: Path) -> None:
    file = tmp_path / "neutral.txt"
    file.write_text("abcdefghijklmnop" * 3)
    settings = replace(SETTINGS, text=str(file))
    models = text_lineage.source_model, text_lineage.target_model

    probe = PROBES["neutral"].draw(*models, None, settings)

    assert isinstance(probe, TokenProbe)
    assert probe.tokens.shape == (SETTINGS.samples, SETTINGS.length)
    assert ((probe.tokens[:, 1:] - probe.tokens[:, :-1]) % len(LETTERS) == 1).all()
    assert settings.identity() != SETTINGS.identity()
    assert settings.identity() == replace(settings, text=str(_copy(file, tmp_path / "copy.txt"))).identity()


def _copy(file: Path, to: Path) -> Path:
    to.write_bytes(file.read_bytes())
    return to


def test_a_text_that_is_too_short_or_missing_is_named(text_lineage: TextPair, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("abc")

    with pytest.raises(Stop, match=r"short\.txt: the text has 3 tokens"):
        text_lineage.source_model.given(replace(SETTINGS, text=str(file)))
    with pytest.raises(Stop, match=r"missing\.txt: cannot be read"):
        text_lineage.source_model.given(replace(SETTINGS, text=str(tmp_path / "missing.txt")))


def test_statistics_are_sums_over_the_tokens_of_the_probe(text_lineage: TextPair) -> None:
    """Against modules and gradients taken by hand, for the tokens that did follow."""
    source, target = text_lineage.source_model, text_lineage.target_model
    probe = source.look_at(texts(source), prompts=("abc", "dd", ""), settings=SETTINGS)
    site = next(site for site in text_lineage.target.base.sites if site.path.endswith("1.mlp.down_proj"))

    found = collect_statistics(source, target, pairs={site: site}, probe=probe, directions=1)[site]
    (inputs_t, gradients_t), (inputs_s, gradients_s) = (by_hand(model, probe, site.path) for model in (target, source))

    assert torch.allclose(found.input_cross, (inputs_t.T @ inputs_s).double(), atol=1e-4)
    assert torch.allclose(found.output_cross, (gradients_t.T @ gradients_s).double(), atol=1e-4)
    assert torch.allclose(found.output_gram, (gradients_t.T @ gradients_t).double(), atol=1e-4)


def by_hand(model: LanguageModel, probe: TokenProbe, path: str) -> tuple[torch.Tensor, torch.Tensor]:
    seen: list[torch.Tensor] = []
    module = model.model.get_submodule(path)
    handles = [
        module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])),
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output)),
    ]
    logits = model.model(input_ids=probe.tokens.clamp_min(0)).logits[:, :-1]
    for handle in handles:
        handle.remove()
    wanted = torch.where(probe.predicted, probe.tokens[:, 1:], -100)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(-loss, seen[1])
    return seen[0].detach().flatten(0, 1), gradient.flatten(0, 1)


def test_a_score_knows_the_adapter_itself_from_a_random_one_and_from_nothing(text_lineage: TextPair) -> None:
    source, target = text_lineage.source_model, text_lineage.target_model
    adapter = make_adapter(text_lineage.source.base, match="", strength=3.0)
    wrong = make_adapter(text_lineage.source.base, match="", strength=3.0, seed=9)
    bench = ScoreBench(source, target, settings=SETTINGS)

    card = bench.score(adapter, {"copy": adapter, "random": wrong})

    gains = {name: card.figures[name]["divergence_gain"].value for name in ("copy", "random", "zero")}
    assert gains["zero"] == 0.0
    assert gains["random"] < 0.5 < gains["copy"] <= 1.0
    assert card.figures["copy"]["effect_cosine"].value > 0.7
    assert card.figures["copy"]["effect_gain"].value == pytest.approx(1.0, abs=0.3)
    assert card.figures["zero"]["drift"].value == pytest.approx(0.0, abs=1e-6)
    assert card.figures["copy"]["drift"].value > 0


def test_models_that_do_not_compare_are_refused(tmp_path: Path, text_strangers: TextPair) -> None:
    text_strangers.source_model.require_comparable(text_strangers.target_model)  # another width is no hindrance
    other = load_language_model(make_text_base(tmp_path / "other-letters", seed=1, letters="abcdefghijklmnoq"))
    pictures = load_diffusion_model(make_base(tmp_path / "pictures", seed=1))

    with pytest.raises(Stop, match="different vocabularies"):
        text_strangers.source_model.require_comparable(other)
    with pytest.raises(Stop, match="cannot be run on the same inputs"):
        text_strangers.source_model.require_comparable(pictures)
    with pytest.raises(Stop, match="cannot be run on the same inputs"):
        load_pair(tmp_path / "pictures", tmp_path / "other-letters")


def test_a_folder_that_is_no_model_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="Expected is a diffusers folder"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    write_tokenizer(tmp_path, LETTERS)
    with pytest.raises(Stop, match="cannot be opened as a language model"):
        load_model(tmp_path)
