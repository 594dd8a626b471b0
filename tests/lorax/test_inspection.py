from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax import weight_file
from lorax.base_models import known_bases
from lorax.examine import AdapterFiles
from lorax.inspection import Inspection, inspect_adapter, to_table
from lorax.read import read_adapter
from lorax.watched_file import WatchedFile
from lorax.weight_file import open_weight_file, write_weight_file
from tests.stand_ins.adapter_files import kohya_tensors, random_adapter, raw_safetensors, small_base

REPOSITORY = Path(__file__).resolve().parents[2]
GENUINE = REPOSITORY / "tests" / "genuine"
BASE = small_base()
PROMISED = {
    "dialect", "algorithms", "family", "version", "evidence", "sites", "ranks", "tensors_mapped", "tensors_unmappable",
    "tensors_unknown", "health", "sha256", "weights_sha256",
}  # fmt: skip
Look = Callable[..., Inspection]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Gives a function that writes tensors into a file and tells what is in it."""

    def inspect(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, **how: bool) -> Inspection:
        path = tmp_path / "a.safetensors"
        write_weight_file(path, tensors, metadata=metadata or {})
        return inspect_adapter(AdapterFiles(path), candidates=[BASE], **how)

    return inspect


def some_tensors() -> dict[str, Tensor]:
    return kohya_tensors(random_adapter(BASE, match="attn1"))


def codes(found: Inspection) -> dict[str, int]:
    return {each.code: each.count for each in found.health}


def test_the_promised_keys_are_there_and_every_key_is_explained_in_the_docs() -> None:
    fields = {each.name for each in dataclasses.fields(Inspection)}
    page = (REPOSITORY / "docs" / "adapter-files.md").read_text(encoding="utf-8")
    section = page.partition("## The keys of `--json`")[2].partition("\n## ")[0]

    assert fields >= PROMISED
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == fields


def test_the_record_of_a_sound_file_agrees_with_the_adapter(look: Look, tmp_path: Path) -> None:
    found = look(some_tensors(), {"modelspec.trigger_phrase": "zebra"})
    path = tmp_path / "a.safetensors"
    adapter = read_adapter(AdapterFiles(path), candidates=[BASE])

    assert (found.problem, found.is_refused, found.health, found.base) == (None, False, [], "small-v1")
    assert (found.sites, found.ranks) == (len(adapter.updates), [2, 4])
    assert found.scale == [pytest.approx(0.3), 1.0]
    assert found.norm == pytest.approx(adapter.norm())
    assert found.largest[0][1] == pytest.approx(max(update.norm() for update in adapter.low_rank().values()))
    assert found.tensors_mapped == len(open_weight_file(path).tensors)
    assert found.sha256 == weight_file.sha256_file(path)
    assert found.weights_sha256 == adapter.weights_sha256
    assert found.trigger_words == ["zebra"]


def test_headers_alone_tell_the_same_but_for_the_numbers(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = look(some_tensors())
    for reading in ("read", "weights_sha256"):
        monkeypatch.setattr(weight_file.WeightFile, reading, lambda *_: pytest.fail("the body was read"))

    found = look(some_tensors(), headers_only=True)

    numbers = {"scale", "norm", "largest", "sha256", "weights_sha256", "headers_only"}
    records = [{key: value for key, value in each.to_json().items() if key not in numbers} for each in (whole, found)]
    assert records[0] == records[1]
    assert [found.to_json()[key] for key in sorted(numbers)] == [True, [], None, None, None, None]
    assert to_table(found)["health"] == "not read"


def test_every_byte_is_read_once_for_hashes_and_once_for_tensors(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = weight_file.WeightFile.read
    monkeypatch.setattr(weight_file.WeightFile, "read", lambda file, name: asked.append(name) or read(file, name))

    look(some_tensors())

    assert sorted(asked) == sorted(some_tensors())


def test_what_is_wrong_with_numbers_is_counted_though_the_file_is_refused(look: Look) -> None:
    tensors = some_tensors()
    names = sorted(name for name in tensors if name.endswith("up.weight"))
    for name in names[:3]:
        tensors[name][0, 0] = math.nan
    tensors[names[3].replace("lora_up.weight", "alpha")] = torch.tensor(0.0)

    found = look(tensors)

    assert found.problem is not None
    assert (found.problem[0], found.is_refused) == ("non-finite", True)
    assert codes(found) == {"non-finite": 3, "alpha-zero": 1}
    assert found.health[0].example in names[:3]
    assert (found.dialect, found.base) == ("kohya", "small-v1")
    assert found.sites > 0


def test_updates_of_zero_missing_alphas_and_mixed_types_are_findings_of_a_file_that_is_read(look: Look) -> None:
    tensors = some_tensors()
    first, second, third = sorted(name for name in tensors if name.endswith("up.weight"))[:3]
    tensors[first] = torch.zeros_like(tensors[first])
    del tensors[second.replace("lora_up.weight", "alpha")]
    tensors[third] = tensors[third].half()

    found = look(tensors)

    assert found.problem is None
    assert codes(found) == {"alpha-missing": 1, "mixed-dtypes": 2, "zero-updates": 1}
    assert "updates that change nothing (1, " in to_table(found)["health"]


def test_a_tensor_that_belongs_to_nothing_is_named_and_the_rest_is_told(look: Look) -> None:
    tensors = some_tensors()
    for role, shape in (("lora_down.weight", (1, 8)), ("lora_up.weight", (8, 1))):
        tensors[f"lora_unet_nowhere.{role}"] = torch.ones(shape)

    whole, header = look(tensors), look(tensors, headers_only=True)

    assert whole.problem is not None
    assert whole.problem[0] in {"unknown-tensor", "base-unknown"}
    assert whole.problem == header.problem
    assert whole.tensors_mapped + whole.tensors_unmappable + whole.tensors_unknown == len(tensors)
    assert whole.tensors_unknown >= 2
    assert whole.weights_sha256 is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>no such model</html>", "html-page"),
        (b"\x80\x02}q\x00." + b"\0" * 40, "pickle"),
        (b"", "empty-file"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8), "truncated"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "unknown-dialect"),
    ],
)
def test_of_a_file_that_is_none_the_reason_size_and_hash_are_told(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)

    found = inspect_adapter(AdapterFiles(path), candidates=[BASE])

    assert found.problem is not None
    assert found.problem[0] == reason
    assert (found.bytes, found.sha256) == (len(content), weight_file.sha256_file(path))
    assert "refused" in to_table(found)
    json.dumps(found.to_json())


def test_a_file_that_the_system_does_not_open_is_a_problem_of_that_file(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weight_file.os, "open", refuse)
    found = inspect_adapter(AdapterFiles(GENUINE / "smart_falcon_lokr.safetensors"), candidates=[BASE])

    assert found.problem is not None
    assert found.problem[0] == "unreadable"
    assert "does not let" in found.problem[1]


def test_a_base_that_is_left_open_is_told_and_is_no_refusal(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weight_file(path, some_tensors())

    found = inspect_adapter(AdapterFiles(path), candidates=[BASE, small_base("small-v2")])

    assert (found.base, found.rivals, found.is_refused) == (None, ["small-v1", "small-v2"], False)
    assert found.norm is not None
    words = to_table(found)
    assert words["base model"] == "undecided between small-v1, small-v2"
    assert "A base label in the catalogue's entry, or ss_new_sd_model_hash in the file, would" in words["undecided"]
    assert "refused" not in words


def test_no_factors_of_a_kronecker_product_are_formed_to_measure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from lorax.algorithms.lokr import LoKr

    candidates = [base for base in known_bases() if base.name == "sd1.5"]
    files = AdapterFiles(GENUINE / "smart_falcon_lokr.safetensors")
    adapter = read_adapter(files, candidates=candidates)
    updates = {str(site): update for site, update in adapter.updates.items() if isinstance(update, LoKr)}
    formed: list[LoKr] = []
    low_rank = LoKr.low_rank
    with monkeypatch.context() as patch:
        patch.setattr(LoKr, "low_rank", lambda update: formed.append(update) or low_rank(update))
        patch.setattr(LoKr, "dense", lambda *_: pytest.fail("the product was formed"))
        found = inspect_adapter(files, candidates=candidates)

    assert len(formed) < 5
    assert found.norm == pytest.approx(math.sqrt(sum(update.norm() ** 2 for update in updates.values())))
    for site, norm in found.largest:
        assert norm == pytest.approx(float(updates[site].dense().double().norm()), rel=1e-4)


def test_a_watched_file_gives_the_bytes_and_hashes_of_the_file_it_watches() -> None:
    file = open_weight_file(GENUINE / "disney_cloneofsimo.safetensors")
    watched = WatchedFile.of(file)
    name = next(iter(file.tensors))

    assert torch.equal(watched.read(name), file.read(name))
    assert watched.sha256() == file.hashes().file
    assert watched.weights_sha256() == file.weights_sha256()
    watched.read_the_rest()
    assert watched.spoilt == dict.fromkeys(file.tensors, 0)
