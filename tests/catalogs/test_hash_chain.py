from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import Stop
from catalogs.hash_chain import START, Event, Head, canonical_json, chain_event, follow_chain, read_head, write_head

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def chain(length: int) -> list[Event]:
    events: list[Event] = []
    head = Head()
    for number in range(length):
        one = chain_event(head, recorded_at="t", run_id="r", kind="k", subject=str(number), body={"n": number})
        events.append(one)
        head = Head(one.sequence, one.hash)
    return events


def head_of(events: list[Event]) -> Head:
    return Head(events[-1].sequence, events[-1].hash)


@given(values)
def test_canonical_json_is_json_and_the_same_for_equal_values(value: object) -> None:
    try:
        text = canonical_json(value)
        text.encode()
    except UnicodeEncodeError:  # pragma: no cover
        pytest.fail("not UTF-8")

    assert canonical_json(json.loads(text)) == text


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": (2,)}) == canonical_json({"a": [2], "b": 1}) == '{"a":[2],"b":1}'


def test_numbers_without_an_end_become_null_and_broken_characters_a_question_mark() -> None:
    assert canonical_json([float("nan"), float("-inf"), "\udcff"]) == '[null,null,"?"]'


def test_a_whole_chain_is_followed_to_its_end() -> None:
    events = chain(5)

    assert events[0].previous_hash == START
    assert follow_chain(events, head=head_of(events), where="ledger") == head_of(events)
    assert follow_chain(events, head=Head(), where="ledger") == head_of(events)
    assert follow_chain([], head=Head(), where="ledger") == Head()


def test_a_chain_that_went_on_after_its_head_was_written_is_sound() -> None:
    events = chain(5)

    assert follow_chain(events, head=head_of(events[:3]), where="ledger") == head_of(events)


@pytest.mark.parametrize("field", ["recorded_at", "run_id", "kind", "subject", "body", "previous_hash", "hash"])
def test_an_altered_field_is_noticed_and_its_event_named(field: str) -> None:
    events = chain(5)
    events[2] = replace(events[2], **{field: getattr(events[2], field) + "x"})

    with pytest.raises(Stop, match="event 3"):
        follow_chain(events, head=Head(), where="ledger")


def test_an_event_replaced_together_with_its_own_hash_breaks_the_next_link() -> None:
    events = chain(5)
    events[2] = chain_event(Head(2, events[1].hash), recorded_at="t", run_id="r", kind="k", subject="2", body={"n": 9})

    with pytest.raises(Stop, match="event 4"):
        follow_chain(events, head=Head(), where="ledger")


def test_a_missing_event_in_the_middle_is_named() -> None:
    events = chain(5)

    with pytest.raises(Stop, match=r"event 3 is missing \(the next one is 4\)"):
        follow_chain(events[:2] + events[3:], head=Head(), where="ledger")


def test_a_missing_tail_is_named_with_the_exact_gap() -> None:
    events = chain(5)

    with pytest.raises(Stop, match=r"events 4 to 5 are missing: it holds 3, ledger\.head says 5"):
        follow_chain(events[:3], head=head_of(events), where="ledger")


def test_a_chain_of_another_history_is_not_taken_for_this_one() -> None:
    other = [chain_event(Head(), recorded_at="t", run_id="r", kind="other", subject="0", body={})]

    with pytest.raises(Stop, match="event 1 is another one"):
        follow_chain(other, head=head_of(chain(1)), where="ledger")


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.head"

    assert read_head(path) is None
    write_head(path, Head(7, "ab"))
    write_head(path, Head(8, "cd"))

    assert read_head(path) == Head(8, "cd")
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.head"]


@pytest.mark.parametrize("text", ["", "{}", '{"sequence": "x", "hash": ""}', "[1]"])
def test_a_damaged_head_stops(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.head"
    path.write_text(text)

    with pytest.raises(Stop, match="is not a ledger head"):
        read_head(path)
