from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from lorax.errors import Stop
from lorax.judging import Asked, more
from lorax.language_model import LanguageModel, TextParts
from lorax.probe_look import ProbeLook
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings
from lorax.view import Look, Scene
from lorax.views import VIEWS
from lorax.views.text_file import windows
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import LETTERS, SETTINGS, TextPair, text_lineage  # noqa: F401 - fixture

# Tiny pairs are fixtures of the session; naming them as arguments is how pytest hands them out.
# ruff: noqa: F811

TEXT = "".join(a + b for a, b in itertools.product(LETTERS, repeat=2))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text(TEXT)
    return path


def opened(pair: TextPair, file: Path | str, *, batch: int = 80) -> Look:
    settings = ScoreSettings(predict=str(file))
    adapter = make_adapter(pair.source.base, match="")
    scene = Scene(pair.source_model, pair.target_model, adapter, SETTINGS, settings=settings, batch=batch)
    return VIEWS["text-file"].open(scene)["text-file"]


def test_windows_are_the_beginning_of_the_file_one_behind_the_other(text_lineage: TextPair, file: Path) -> None:
    probe = windows(text_lineage.source_model, file, SETTINGS)

    assert probe.tokens.shape == (SETTINGS.samples, SETTINGS.length)
    assert text_lineage.source_model.tokenizer.decode(probe.tokens.flatten()) == TEXT[: SETTINGS.samples * 12]
    assert probe.given.tolist() == [1] * SETTINGS.samples


def test_a_short_file_has_fewer_windows_and_what_fills_none_is_left_out(text_lineage: TextPair, file: Path) -> None:
    file.write_text(TEXT[: 2 * SETTINGS.length + 5])

    assert windows(text_lineage.source_model, file, SETTINGS).tokens.shape == (2, SETTINGS.length)


def test_each_window_opens_as_the_tokenizer_opens_a_text(text_lineage: TextPair, file: Path, tmp_path: Path) -> None:
    model = text_lineage.source_model
    model.tokenizer.save_pretrained(tmp_path / "opening")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "opening")
    first = tokenizer.bos_token
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.bos_token_id)]
    )
    probe = windows(LanguageModel(TextParts(model.model, tokenizer)), file, SETTINGS)

    assert probe.tokens[:, 0].tolist() == [tokenizer.bos_token_id] * SETTINGS.samples
    assert tokenizer.decode(probe.tokens[:, 1:].flatten()) == TEXT[: SETTINGS.samples * 11]
    assert len(probe.group) == SETTINGS.samples * 11  # each letter of the file is predicted


def test_the_perplexity_is_the_one_that_transformers_computes(text_lineage: TextPair, file: Path) -> None:
    source, target = text_lineage.source_model, text_lineage.target_model
    adapter = make_adapter(text_lineage.source.base, match="", strength=3.0)
    bench = ScoreBench(source, target, settings=SETTINGS, score=ScoreSettings(predict=str(file)))

    figures = bench.score(adapter, {"converted": adapter}).figures

    tokens = windows(target, file, SETTINGS).tokens
    with torch.no_grad(), target.patched(adapter):
        patched = target.model(input_ids=tokens, labels=tokens).loss
    with torch.no_grad():
        plain = target.model(input_ids=tokens, labels=tokens).loss
    assert figures["converted"]["perplexity"].value == pytest.approx(patched.exp().item(), rel=1e-5)
    assert figures["zero"]["perplexity"].value == pytest.approx(plain.exp().item(), rel=1e-5)
    assert figures["converted"]["perplexity"].low < figures["converted"]["perplexity"].high


def test_a_look_at_a_file_holds_one_number_a_token(text_lineage: TextPair, file: Path) -> None:
    look = opened(text_lineage, file, batch=4)

    seen = [look.see(text_lineage.source_model, None, rows) for rows in look.batches()]

    assert [len(part) for part in seen] == [4 * 11, 2 * 11]
    assert all(part.shape[1] == 1 for part in seen)
    assert isinstance(look, ProbeLook)


def test_plain_bases_are_run_on_a_file_once_for_all_adapters(
    text_lineage: TextPair, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ScoreBench(
        text_lineage.source_model,
        text_lineage.target_model,
        settings=SETTINGS,
        score=ScoreSettings(predict=str(file)),
    )
    adapters = [make_adapter(text_lineage.source.base, match="", seed=seed) for seed in (0, 1)]
    runs: list[bool] = []
    run = LanguageModel.run

    def counted(model: LanguageModel, *arguments: object) -> torch.Tensor:
        runs.append(model is text_lineage.source_model)
        return run(model, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "run", counted)
    counts = []
    for adapter in adapters:
        bench.tally(adapter, {"converted": adapter}, views=["text-file"])
        counts.append(len(runs))

    assert counts == [4, 4 + 2]


def test_another_file_on_the_same_bench_is_another_look(text_lineage: TextPair, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1])
    bench = ScoreBench(text_lineage.source_model, text_lineage.target_model, settings=SETTINGS)
    adapter = make_adapter(text_lineage.source.base, match="")
    found = []
    for path in (file, other):
        bench.score_settings = ScoreSettings(predict=str(path))
        found.append(bench.score(adapter, {}).figures["zero"]["perplexity"].value)

    assert found[0] != found[1]


def test_without_a_file_there_is_nothing_to_look_at(text_lineage: TextPair) -> None:
    adapter = make_adapter(text_lineage.source.base, match="")
    scene = Scene(text_lineage.source_model, text_lineage.target_model, adapter, SETTINGS)

    assert VIEWS["text-file"].open(scene) == {}


def test_files_that_do_not_serve_are_named_with_what_is_expected(text_lineage: TextPair, tmp_path: Path) -> None:
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("abc" * 5)
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(Stop, match=r"short\.txt: the text to predict has 15 tokens; expected are at least 24"):
        opened(text_lineage, short)
    with pytest.raises(Stop, match=r"binary\.txt: cannot be read .*expected is a text to predict, a file of UTF-8"):
        opened(text_lineage, binary)
    with pytest.raises(Stop, match=r"missing\.txt: cannot be read"):
        opened(text_lineage, tmp_path / "missing.txt")


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_the_text(text_lineage: TextPair, file: Path) -> None:
    plain = windows(text_lineage.source_model, file, SETTINGS).tokens
    file.write_text(TEXT, encoding="utf-8-sig")

    assert torch.equal(windows(text_lineage.source_model, file, SETTINGS).tokens, plain)


def test_windows_may_be_of_any_length(text_lineage: TextPair, file: Path) -> None:
    probe = windows(text_lineage.source_model, file, replace(SETTINGS, samples=100, length=50))

    assert probe.tokens.shape == (2 * len(LETTERS) ** 2 // 50, 50)


def test_further_rounds_do_not_count_the_windows_of_a_file_again(text_lineage: TextPair, file: Path) -> None:
    settings = ScoreSettings(predict=str(file))
    bench = ScoreBench(text_lineage.source_model, text_lineage.target_model, settings=SETTINGS, score=settings)
    asked = Asked(make_adapter(text_lineage.source.base, match=""), {})

    found = bench.tally(asked.adapter, asked.candidates).with_more(more(bench, asked, 0)).sums["zero"]

    assert len(found["perplexity"]) == SETTINGS.samples
    assert len(found["sample_loss"]) == 2 * SETTINGS.samples
