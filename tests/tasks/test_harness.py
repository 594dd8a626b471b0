"""The harness is tried against a stand-in with its documented interface, and against itself where it is installed."""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lorax.adapter import Adapter
from lorax.errors import Stop
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard
from lorax.score_settings import ScoreSettings
from lorax.scorer import Figure
from tasks.harness import Harness, HarnessSettings, harness_figures, with_harness
from tests.stand_ins.pairs import SETTINGS as DRAWN
from tests.stand_ins.pairs import Pair, twins  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import LETTERS, SETTINGS, TextPair, text_lineage  # noqa: F401 - fixture

# ruff: noqa: F811

ASKED = torch.arange(10)[None]


@dataclass
class StandIn:
    """What was asked of the stand-in: the calls' arguments, and the error or results that it answers with."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    managers: list[Any] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts modules with lm_eval's documented names into place; a task's `acc` is what the model makes of ASKED."""
    state = StandIn()

    class TaskManager:
        def __init__(self, *, include_path: Any = None) -> None:
            self.all_tasks = ["hellaswag", "arc_easy", "ai2_arc"]
            state.managers.append(include_path)

    class HFLM:
        def __init__(self, pretrained: Any, *, tokenizer: Any = None, batch_size: int | str | None = 1) -> None:
            self.model, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size

    def simple_evaluate(model: HFLM, **arguments: Any) -> dict[str, Any]:
        state.calls.append({"batch": model.batch_size, **arguments})
        if state.error is not None:
            raise state.error
        loss = model.model(input_ids=ASKED, labels=ASKED).loss.item()
        measured = {"alias": "x", "acc,none": loss, "acc_stderr,none": 0.5, "f1,strict": 2.0, "f1_stderr,strict": "N/A"}
        return {"results": state.results or dict.fromkeys(arguments["tasks"], measured)}

    modules = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.tasks", "lm_eval.models.huggingface")}
    modules["lm_eval"].simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    modules["lm_eval.tasks"].TaskManager = TaskManager  # type: ignore[attr-defined]
    modules["lm_eval.models.huggingface"].HFLM = HFLM  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return state


@pytest.fixture
def adapter(text_lineage: TextPair) -> Adapter:
    return make_adapter(text_lineage.source.base, match="", strength=3.0)


def harness(pair: TextPair, *tasks: str, **others: Any) -> Harness:
    return Harness(pair.source_model, pair.target_model, HarnessSettings(tasks, **others))


def loss(model: Any, adapter: Adapter | None) -> float:
    with torch.no_grad(), model.patched(adapter):
        return float(model.model(input_ids=ASKED, labels=ASKED).loss)


def test_each_of_the_models_answers_with_its_adapter_in_place(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    source, target = text_lineage.source_model, text_lineage.target_model

    found = harness(text_lineage, "hellaswag").figures(adapter, {"converted": adapter})

    wanted = {
        "source": loss(source, None),
        "source+adapter": loss(source, adapter),
        "zero": loss(target, None),
        "converted": loss(target, adapter),
    }
    assert {name: figures["harness:hellaswag"].value for name, figures in found.items()} == pytest.approx(wanted)
    assert len({round(value, 4) for value in wanted.values()}) == 4


def test_plain_bases_are_asked_once_for_all_adapters(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    asked = harness(text_lineage, "hellaswag")

    first = asked.figures(adapter, {"converted": adapter})
    second = asked.figures(adapter, {"converted": adapter})

    assert first == second
    assert len(stand_in.calls) == 2 + 2 + 2


def test_the_interval_is_made_of_the_standard_error_where_there_is_one(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    found = harness(text_lineage, "hellaswag", "hellaswag:f1", "arc_easy:f1,strict").figures(adapter, {})["zero"]

    accuracy = found["harness:hellaswag"]
    assert (accuracy.high - accuracy.low) / 2 == pytest.approx(1.96 * 0.5)
    assert found["harness:hellaswag:f1"] == Figure.exact(2.0)
    assert found["harness:arc_easy:f1,strict"] == Figure.exact(2.0)


def test_settings_reach_the_harness(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter, tmp_path: Path
) -> None:
    asked = harness(text_lineage, "hellaswag:acc", "hellaswag:f1", "arc_easy", folder=str(tmp_path), limit=5, batch=3)

    asked.figures(adapter, {})

    assert stand_in.managers == [str(tmp_path)]
    assert {key: stand_in.calls[0][key] for key in ("tasks", "limit", "batch", "log_samples")} == {
        "tasks": ["arc_easy", "hellaswag"],
        "limit": 5,
        "batch": 3,
        "log_samples": False,
    }


def test_a_card_takes_the_figures_of_its_own_candidates(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    card = ScoreCard({"converted": {"drift": Figure.exact(0.0)}, "zero": {}, "copy": {}}, "probe")

    full = with_harness(card, harness(text_lineage, "hellaswag").figures(adapter, {"converted": adapter}))

    assert set(full.figures) == {"converted", "zero", "copy"}
    assert set(full.figures["converted"]) == {"drift", "harness:hellaswag"}
    assert set(full.figures["zero"]) == {"harness:hellaswag"}
    assert full.figures["copy"] == {}


def bench_of(pair: TextPair, *tasks: str) -> ScoreBench:
    return ScoreBench(pair.source_model, pair.target_model, settings=SETTINGS, score=ScoreSettings(harness=tasks))


def test_a_bench_is_asked_what_its_settings_say_and_keeps_what_plain_bases_reach(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    bench = bench_of(text_lineage, "hellaswag")

    first = harness_figures(bench, adapter, {"converted": adapter})
    again = harness_figures(bench, adapter, {"converted": adapter})
    bench.score_settings = ScoreSettings(harness=("arc_easy",))
    other = harness_figures(bench, adapter, {})

    assert first == again == harness(text_lineage, "hellaswag").figures(adapter, {"converted": adapter})
    assert set(other["zero"]) == {"harness:arc_easy"}
    assert len(stand_in.calls) == (2 + 2) + 2 + (2 + 1) + (2 + 2)


def test_a_bench_without_tasks_or_without_texts_is_asked_nothing(
    stand_in: StandIn, text_lineage: TextPair, twins: Pair, adapter: Adapter
) -> None:
    drawing = ScoreBench(
        twins.source_model, twins.target_model, settings=DRAWN, score=ScoreSettings(harness=("hellaswag",))
    )

    assert harness_figures(bench_of(text_lineage), adapter, {"converted": adapter}) == {}
    assert harness_figures(drawing, make_adapter(twins.source.base), {}) == {}
    assert stand_in.calls == []


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("helaswag", "knows no task 'helaswag'; did you mean 'hellaswag'.*harness_tasks"),
        ("hellaswag:accuracy", "task 'hellaswag' has no metric 'accuracy'; it has acc,none, f1,strict"),
    ],
)
def test_tasks_and_metrics_that_are_not_there_are_named(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter, task: str, said: str
) -> None:
    with pytest.raises(Stop, match=said):
        harness(text_lineage, task).figures(adapter, {})


def test_a_name_of_several_tasks_is_to_be_replaced_by_theirs(
    stand_in: StandIn, text_lineage: TextPair, adapter: Adapter
) -> None:
    stand_in.results = {"arc_easy": {"acc,none": 1.0}, "arc_challenge": {"acc,none": 1.0}}

    with pytest.raises(Stop, match="'ai2_arc' stands for several tasks, arc_challenge, arc_easy"):
        harness(text_lineage, "ai2_arc").figures(adapter, {})


def test_data_that_cannot_be_had_stops_the_run(stand_in: StandIn, text_lineage: TextPair, adapter: Adapter) -> None:
    stand_in.error = ConnectionError("no route to huggingface.co")

    with pytest.raises(Stop, match=r"cannot run hellaswag: no route to huggingface\.co\. It fetches the data"):
        harness(text_lineage, "hellaswag").figures(adapter, {})


def test_without_the_harness_it_is_said_what_to_install(
    text_lineage: TextPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Absent("lm_eval"), *sys.meta_path])

    with pytest.raises(Stop, match=r'lm_eval is not installed: pip install "lm-eval\[hf\]", or leave'):
        harness(text_lineage, "hellaswag")


class _Absent:
    """Finds no module of a name, whether it is installed or not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_models_that_draw_are_not_asked(twins: Pair) -> None:
    with pytest.raises(Stop, match="a diffusion model answers no task of lm-evaluation-harness"):
        Harness(twins.source_model, twins.target_model, HarnessSettings(("hellaswag",)))


def test_a_folder_of_tasks_that_is_not_there_is_named(stand_in: StandIn, text_lineage: TextPair) -> None:
    with pytest.raises(Stop, match="`harness_tasks`: there is no folder /nowhere"):
        harness(text_lineage, "hellaswag", folder="/nowhere")


TASK = """\
task: letters
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_the_harness_itself_finds_the_accuracy_that_is_computed_by_hand(
    text_lineage: TextPair, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="an optional dependency")
    monkeypatch.setitem(os.environ, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    documents = [
        {"prompt": a + b, "choices": [LETTERS[at], LETTERS[at + 1]], "label": at % 2}
        for at, (a, b) in enumerate(itertools.islice(itertools.product(LETTERS, repeat=2), 15))
    ]
    data = tmp_path / "letters.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "letters.yaml").write_text(TASK.format(data=data))

    asked = harness(text_lineage, "letters", folder=str(tmp_path))
    found = asked.figures(adapter, {"converted": adapter, "flipped": flipped(adapter)})

    for name, model, each in (
        ("source", text_lineage.source_model, None),
        ("source+adapter", text_lineage.source_model, adapter),
        ("zero", text_lineage.target_model, None),
        ("converted", text_lineage.target_model, adapter),
        ("flipped", text_lineage.target_model, flipped(adapter)),
    ):
        wanted = sum(chosen(model, each, document) == document["label"] for document in documents) / len(documents)
        assert found[name]["harness:letters"].value == pytest.approx(wanted), name
    assert len({figures["harness:letters"].value for figures in found.values()}) > 1
    assert found["zero"]["harness:letters"].low < found["zero"]["harness:letters"].high


def flipped(adapter: Adapter) -> Adapter:
    return replace(adapter, updates={site: replace(each, scale=-each.scale) for site, each in adapter.updates.items()})


def chosen(model: Any, adapter: Adapter | None, document: dict[str, Any]) -> int:
    with torch.no_grad(), model.patched(adapter):
        [says] = model.model(**model.tokenizer(document["prompt"], return_tensors="pt")).logits[:, -1]
    first, second = (model.tokenizer(choice).input_ids[0] for choice in document["choices"])
    return int(says[second] > says[first])
