from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.errors import Stop
from catalogs.explain import Account, account_of
from catalogs.hubs.folder import FolderHub
from catalogs.ledger import Ledger, Reader
from catalogs.release import Release
from catalogs.report_data import Measured
from tests.stand_ins import gate_story
from tests.stand_ins.gate_story import DOUBTED, WAITING, WEAK, WILD
from tests.stand_ins.ledger_story import (
    BOLD,
    BROKEN,
    FAINT,
    LOCKED,
    LOST,
    PLAN,
    Fact,
    conversion_id,
    converted,
    digest,
    entry,
    judged,
    outcome,
    seen,
    started,
    story,
)


def told_by(facts: list[Fact], *more: tuple[str, list[Fact]]) -> Reader:
    """Returns a reader of a ledger in memory that holds the facts of one run, then those of others."""
    reader: Reader | None = None
    for run_id, told in (("run-1", facts), *more):
        with Ledger.in_memory(reader, run_id=run_id) as ledger:
            ledger.append_many(told)
            reader = ledger.reader()
    assert reader is not None
    return reader


@pytest.fixture(scope="module")
def gated() -> Reader:
    return told_by(gate_story.gate_story())


def test_an_account_holds_the_verdict_the_figures_and_where_the_files_lie(gated: Reader) -> None:
    account = account_of(gated, "weak")

    assert account.standing is not None
    assert (account.standing.state, account.standing.reason) == ("rejected", "gate-divergence-gain")
    assert account.judgement is not None
    assert account.judgement.outcome == "fail"
    assert account.judgement.gate == gate_story.GATE
    assert account.figure().value == pytest.approx(0.31)
    assert account.figure(of="copy").value == pytest.approx(0.2)
    assert account.figure("unheard-of") == account.figure(of="nobody") == Measured(None)
    assert account.margins["random"].low == pytest.approx(0.49)
    assert (account.samples, account.kind, account.words) == (16, "diffusion", ("catalogue", "neutral"))
    assert account.conversion is not None
    assert account.conversion.files == (f"conversions/{conversion_id(WEAK)}/files/out.safetensors",)
    assert account.conversion.lost_sites == ((LOST, "no-target-site"),)
    assert account.report == "reports/1.html"
    assert account.settings["gate"] == {"divergence_gain": 0.5}


def test_a_ledger_of_before_there_were_three_outcomes_is_understood(told: Reader) -> None:
    faint, bold = account_of(told, FAINT.key), account_of(told, BOLD.key)

    assert faint.judgement is not None
    assert bold.judgement is not None
    assert (faint.judgement.outcome, bold.judgement.outcome) == ("fail", "pass")
    assert faint.judgement.reasons[0][0] == "gate-divergence-gain"
    assert (faint.margins, faint.samples, faint.kind) == ({}, 0, "")
    assert bold.conversion is not None
    assert bold.conversion.location == "hub/bold"


def test_a_verdict_may_be_uncertain_and_a_figure_no_number(gated: Reader) -> None:
    doubted, wild = account_of(gated, DOUBTED.key), account_of(gated, WILD.key)

    assert doubted.judgement is not None
    assert doubted.judgement.outcome == "uncertain"
    assert wild.figure() == Measured(None, None, None)


@pytest.mark.parametrize(
    "wanted",
    [
        BOLD.key,
        BOLD.entry_id,
        "bold",
        "BOLD",
        " Bold.safetensors ",
        conversion_id(BOLD),
        conversion_id(BOLD)[:8],
        digest(BOLD.entry_id),
        digest("released bold"),
        digest("manifest"),
    ],
)
def test_anything_that_names_one_adapter_is_enough(told: Reader, wanted: str) -> None:
    assert account_of(told, wanted).entry_key == BOLD.key


def test_entries_that_were_never_read_have_an_account_too(told: Reader) -> None:
    locked, broken = account_of(told, "Locked"), account_of(told, "broken.safetensors")

    assert locked.policy[0][0] == "no-derivatives"
    assert (locked.conversion, locked.judgement, locked.figures) == (None, None, {})
    assert broken.standing is not None
    assert broken.standing.text == "the header claims 4096 bytes, the file has 100"


def test_an_entry_that_no_run_settled_has_no_standing_outcome() -> None:
    reader = told_by([started("run-1"), seen(WAITING), converted(WAITING)])
    account = account_of(reader, "waiting")

    assert (account.standing, account.others, account.conversion) == (None, (), None)
    assert [one.conversion_id for one in account.attempts] == [conversion_id(WAITING)]
    assert account_of(reader, conversion_id(WAITING)).conversion is not None


def test_the_latest_outcome_stands_and_the_others_are_named_the_newest_first() -> None:
    later = [started("run-2", migration="to-other"), outcome(FAINT, "failed", "out-of-memory", "no room")]
    again = [started("run-3"), outcome(FAINT, "rejected", "gate-worse-than-copy", "x", with_conversion=True)]
    reader = told_by(story(), ("run-2", later), ("run-3", [*again, again[-1]]))
    account = account_of(reader, FAINT.key)

    assert account.standing is not None
    assert (account.standing.run_id, account.standing.reason) == ("run-3", "gate-worse-than-copy")
    assert [(one.migration, one.reason) for one in account.others] == [
        ("to-other", "out-of-memory"),
        ("digits-v1-to-v2", "gate-divergence-gain"),
    ]


def test_a_conversion_is_explained_by_its_own_outcome_and_the_verdict_of_that_time() -> None:
    loosened = [
        started("run-2"),
        judged(FAINT, passed=True),
        outcome(FAINT, "passed", "publish-not-allowed", with_conversion=True),
        outcome(FAINT, "skipped", "no-derivatives"),
    ]
    reader = told_by(story(), ("run-2", loosened))
    by_entry, by_conversion = account_of(reader, FAINT.key), account_of(reader, conversion_id(FAINT))

    assert by_entry.standing is not None
    assert by_conversion.standing is not None
    assert by_conversion.judgement is not None
    assert (by_entry.standing.state, by_entry.conversion) == ("skipped", None)
    assert (by_conversion.standing.state, by_conversion.judgement.outcome) == ("passed", "pass")
    assert [one.state for one in by_conversion.others] == ["skipped", "rejected"]
    assert [one.state for one in by_entry.others] == ["passed", "rejected"]


def test_a_later_verdict_does_not_speak_for_an_earlier_outcome() -> None:
    reader = told_by(story(), ("run-2", [started("run-2"), judged(FAINT, passed=True)]))
    account = account_of(reader, FAINT.key)

    assert account.judgement is not None
    assert account.judgement.outcome == "fail"


def test_conversions_that_no_outcome_is_about_are_named_with_their_figures() -> None:
    other = digest("another conversion")
    body = dict(converted(WEAK)[2])
    facts = [
        *gate_story.gate_story(),
        ("converted", other, {**body, "method": "copy"}),
        gate_story.scored(WEAK, gate_story.figure(0.05), name=other),
    ]
    (attempt,) = account_of(told_by(facts), WEAK.key).attempts

    assert (attempt.conversion_id, attempt.method, attempt.outcome) == (other, "copy", "")
    assert attempt.gain.value == pytest.approx(0.05)


def test_a_file_of_the_catalogue_is_known_by_its_place_even_if_it_was_never_stored(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "folder/adapter_model.safetensors"
    other.parent.mkdir()
    for path in (one, other):
        path.write_bytes(BOLD.entry_id.encode())
    first, second = entry("first", weights=str(one)), entry("second", weights=str(other))
    reader = told_by(
        [*story(), *(fact for one in (first, second) for fact in (seen(one), outcome(one, "skipped", "x")))]
    )

    assert account_of(reader, one).entry_key == first.key
    assert account_of(reader, str(other)).entry_key == second.key
    assert account_of(reader, other.parent).entry_key == second.key
    moved = one.rename(tmp_path / "moved.safetensors")
    assert account_of(reader, moved).entry_key == BOLD.key


def test_a_folder_of_a_hub_leads_to_its_adapter(
    told: Reader, tmp_path: Path, make_release: Callable[..., Release]
) -> None:
    publication = FolderHub(tmp_path / "hub").publish(make_release(conversion_id(BOLD)))

    assert account_of(told, publication.location).entry_key == BOLD.key


@pytest.mark.parametrize(("wanted", "near"), [("bald", "Bold"), ("lockt", "Locked"), ("fainted.safetensors", "faint")])
def test_what_is_not_known_is_answered_with_near_names(told: Reader, wanted: str, near: str) -> None:
    with pytest.raises(Stop, match=f"(?i)knows nothing about {wanted}.*Did you mean .*{near}"):
        account_of(told, wanted)


@pytest.mark.parametrize("wanted", ["qqqqqqqq", "f" * 64, "   ", "'; DROP TABLE event; --"])
def test_what_is_like_nothing_is_said_to_be_unknown(told: Reader, wanted: str) -> None:
    with pytest.raises(Stop, match=r"knows nothing about") as problem:
        account_of(told, wanted)
    assert "Did you mean" not in str(problem.value)


def test_a_name_that_fits_several_adapters_lists_them() -> None:
    twin, other = entry("deeper/bold", name="Twin"), entry("bolder", name=BOLD.name)

    with pytest.raises(Stop, match=r"bold fits 2 adapters: digits:bold\.safetensors, digits:deeper/bold\.safetensors"):
        account_of(told_by([seen(entry("bold", name="One")), seen(twin)]), "bold")
    with pytest.raises(Stop, match="Bold fits 2 things"):
        account_of(told_by([*story(), seen(other)]), "Bold")


def test_a_plan_is_no_adapter(told: Reader) -> None:
    with pytest.raises(Stop, match="is a plan"):
        account_of(told, PLAN[:12])


@pytest.mark.parametrize("one", [BOLD, FAINT, LOCKED, BROKEN])
def test_every_fate_of_a_run_has_an_account(told: Reader, one: object) -> None:
    account = account_of(told, getattr(one, "key"))  # noqa: B009
    assert isinstance(account, Account)
    assert account.standing is not None
    assert account.name == getattr(one, "name")  # noqa: B009
