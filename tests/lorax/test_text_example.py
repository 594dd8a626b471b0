"""What examples/text promises: folders that other tools open, losses that can be measured again, an index of it all."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.text import adapters, domains, models
from examples.text.measure import loss
from examples.text.train import SECOND_SEEDS, SOURCE, TARGETS

TEXT = Path(domains.__file__).resolve().parent
BUDGET = 18_000_000
BASES = (SOURCE, *TARGETS)

pytestmark = [
    pytest.mark.skipif(not (TEXT / "index.json").is_file(), reason="the example has not been made here"),
    # Between the two libraries, not ours to mend.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    return models.read_json(TEXT / "index.json")


def weight_folders(part: str) -> set[str]:
    return {path.parent.relative_to(TEXT).as_posix() for path in (TEXT / part).rglob("*.safetensors")}


def files() -> Iterator[Path]:
    return (path for path in TEXT.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def shapes_in(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as opened:
        return {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118


@pytest.mark.parametrize("part", ["bases", "adapters", "natives"])
def test_the_index_lists_what_is_there_and_nothing_else(index: dict[str, Any], part: str) -> None:
    assert {record["path"] for record in index[part]} == weight_folders(part)


def test_each_domain_has_a_sample_an_adapter_and_a_native_per_target(index: dict[str, Any]) -> None:
    held_out = {record["path"]: record["bytes"] for record in index["held_out"]}
    assert held_out == {f"held_out/{path.name}": path.stat().st_size for path in (TEXT / "held_out").iterdir()}
    assert {record["domain"] for record in index["held_out"]} == {domains.NEUTRAL, *domains.DOMAINS}
    assert [record["domain"] for record in index["adapters"]] == list(domains.DOMAINS)
    for record in index["adapters"]:
        seeds = ("", ".seed1") if record["domain"] in SECOND_SEEDS else ("",)
        wanted = {target: [f"natives/{target}/{record['domain']}{seed}" for seed in seeds] for target in TARGETS}
        assert record["natives"] == wanted


@pytest.mark.parametrize("name", BASES)
def test_transformers_opens_a_base_without_a_missing_or_an_unknown_key(name: str) -> None:
    _, found = AutoModelForCausalLM.from_pretrained(
        TEXT / "bases" / name, local_files_only=True, output_loading_info=True
    )
    assert not any(found.values())


@pytest.mark.parametrize("name", BASES)
def test_token_n_of_each_tokenizer_is_byte_n(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEXT / "bases" / name, local_files_only=True)
    text = "".join(chr(point) for point in range(0x20, 0x800)) + " \n\t €𝄞"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (256, 257, 258)


@pytest.mark.parametrize("name", BASES)
def test_each_adapter_of_a_base_has_the_keys_and_shapes_that_peft_would_give_it(
    index: dict[str, Any], name: str
) -> None:
    config = LoraConfig(r=adapters.RANK, target_modules=adapters.MODULES, task_type="CAUSAL_LM")
    untrained = get_peft_model_state_dict(get_peft_model(models.open_base(TEXT / "bases" / name), config))
    wanted = {key: list(value.shape) for key, value in untrained.items()}
    made = [record for record in (*index["adapters"], *index["natives"]) if record["base"] == name]
    assert made
    assert {record["path"]: shapes_in(TEXT / record["path"]) for record in made} == {
        record["path"]: wanted for record in made
    }


def test_the_recorded_losses_are_measured_again(index: dict[str, Any]) -> None:
    base = models.open_base(TEXT / "bases" / SOURCE)
    recorded = next(record for record in index["bases"] if record["name"] == SOURCE)["held_out_losses"]
    record = next(record for record in index["adapters"] if record["domain"] == "json")
    sample = domains.held_out("json")
    neutral = domains.held_out(domains.NEUTRAL)
    assert loss(base, neutral) == pytest.approx(recorded[domains.NEUTRAL], abs=2e-4)
    assert loss(base, sample) == pytest.approx(record["held_out_loss_without"], abs=2e-4)
    adapted = adapters.open_adapter(base, TEXT / record["path"])
    assert loss(adapted, sample) == pytest.approx(record["held_out_loss_with"], abs=2e-4)


def test_the_loss_counts_each_predicted_byte_once() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **_: object) -> Any:
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 256)})

    assert loss(Uniform(), bytes(256 * 20 + 7)) == pytest.approx(8 * torch.log(torch.tensor(2.0)).item())


def test_every_adapter_helps_on_its_domain(index: dict[str, Any]) -> None:
    lifts = {
        record["path"]: record["held_out_loss_without"] - record["held_out_loss_with"]
        for record in (*index["adapters"], *index["natives"])
    }
    assert min(lifts.values()) > 0.2


def test_the_later_checkpoint_is_the_better_one(index: dict[str, Any]) -> None:
    neutral = {record["name"]: record["held_out_losses"][domains.NEUTRAL] for record in index["bases"]}
    assert neutral["text-v2"] < neutral["text-v1"] - 0.05


def test_the_example_stays_within_its_size() -> None:
    assert sum(path.stat().st_size for path in files()) <= BUDGET


def test_no_configuration_names_a_folder(index: dict[str, Any]) -> None:
    for path in files():
        if path.suffix == ".json" and path.name != "tokenizer.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            assert [value for value in content.values() if str(value).startswith(("/", "~", "C:"))] == []
    for record in (*index["adapters"], *index["natives"]):
        config = models.read_json(TEXT / record["path"] / "adapter_config.json")
        assert config["base_model_name_or_path"] == f"{models.OWNER}/{record['base']}"


def test_a_python_like_the_one_it_was_made_with_makes_the_same_text(index: dict[str, Any]) -> None:
    if platform.python_version() != index["made_with"]["python"]:
        pytest.skip(f"the text was made with Python {index['made_with']['python']}")
    assert domains.make_sample("unicode").encode() == domains.held_out("unicode")


def test_no_document_is_on_both_sides_of_the_split() -> None:
    sides = [{document.name for document in domains.unicode_tables(part)} for part in ("train", "held-out")]
    assert all(sides)
    assert sides[0].isdisjoint(sides[1])
