from __future__ import annotations

from tasks.grouping import Candidate, group_adapters


def adapter(key: str, *, base: str | None = "old", adapter_id: str = "") -> Candidate:
    return Candidate(entry_key=key, adapter_id=adapter_id or key, base=base)


def test_adapters_go_with_the_pair_that_starts_from_their_base() -> None:
    groups = group_adapters(
        [adapter("c:b"), adapter("c:a"), adapter("c:x", base="older")], sources=["old", "older"], settled={}
    )
    assert groups["members"] == {"old": ["c:a", "c:b"], "older": ["c:x"]}
    assert groups["ended"] == {}


def test_an_adapter_of_another_base_ends_with_the_bases_that_would_do() -> None:
    groups = group_adapters([adapter("c:a", base="sd1.5")], sources=["old"], settled={})
    assert groups["ended"]["c:a"].reason == "other-base"
    assert groups["ended"]["c:a"].text == "made for sd1.5; the pairs of this migration start from old"


def test_of_equal_adapters_in_different_files_the_first_by_name_goes_on() -> None:
    groups = group_adapters(
        [adapter("c:b", adapter_id="x"), adapter("c:a", adapter_id="x")], sources=["old"], settled={}
    )
    assert groups["members"] == {"old": ["c:a"]}
    assert groups["ended"]["c:b"].reason == "duplicate"
    assert "a, which stands for both" in groups["ended"]["c:b"].text


def test_an_adapter_that_an_earlier_run_has_settled_under_another_name_is_a_duplicate() -> None:
    groups = group_adapters([adapter("c:a", adapter_id="x")], sources=["old"], settled={"x": "c:z"})
    assert groups["members"] == {"old": []}
    assert "holds the same tensors and scales as z" in groups["ended"]["c:a"].text


def test_an_adapter_that_is_looked_at_again_is_no_duplicate_of_itself() -> None:
    groups = group_adapters([adapter("c:a", adapter_id="x")], sources=["old"], settled={"x": "c:a"})
    assert groups["members"] == {"old": ["c:a"]}
