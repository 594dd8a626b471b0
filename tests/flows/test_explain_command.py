from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from catalogs.explain import Account, Attempt, Conversion, Ending, Judgement
from catalogs.ledger import Ledger
from catalogs.model_card import CANDIDATES
from catalogs.report_data import Measured
from flows.advice import BY_STATE, NEXT, advice
from flows.command_line import app
from flows.explaining import explain, headline, print_explanation, sentence_of
from flows.figure_words import MEANINGS, RIVALS, ZERO, Thresholds, measured_words, percent, points
from flows.folders import Folders
from flows.states import PASSED, REJECTED, STATES, reasons
from tests.stand_ins.gate_story import GATE, UNSCORED, WEAK, gate_story
from tests.stand_ins.ledger_story import FAINT, Fact, conversion_id, story

MOVED = Conversion("c" * 64, method="calibrated", source="v1", target="v2")


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explain", *(str(each) for each in arguments)])


def remember(folder: Path, facts: list[Fact]) -> Path:
    with Ledger.open(folder / "ledger.duckdb", run_id="run-1") as ledger:
        ledger.append_many(facts)
    return folder


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder whose gate knows three outcomes."""
    return remember(tmp_path_factory.mktemp("gated"), gate_story())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder of before there were margins and uncertain verdicts."""
    return remember(tmp_path_factory.mktemp("old"), story())


def ended(state: str, reason: str, **changes: object) -> Account:
    standing = Ending("m", state, reason, "said so", "", "run-1", "2026-01-01 00:00:00")
    return dataclasses.replace(Account("c:a", "a", "A", standing), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "first_line"),
    [
        (
            "weak",
            (
                "Weak was not published: on samples of its own it brings digits-v2 only 31 % of the way to what it did "
                "on digits-v1; 40 % is asked."
            ),
        ),
        (
            "doubted",
            (
                "Doubted was not published: on samples of its own it brings digits-v2 38 % of the way to what it did "
                "on digits-v1, but its samples leave anything from 33 % to 43 % open, where 40 % is asked."
            ),
        ),
        (
            "copied",
            (
                "Copied was not published: on samples of its own it brings digits-v2 60 % of the way to what it did on "
                "digits-v1; a plain copy of the old file comes 80 % of the way."
            ),
        ),
        (
            "harmful",
            (
                "Harmful was not published: on samples of its own it takes digits-v2 further away from what it did on "
                "digits-v1 than doing nothing."
            ),
        ),
        (
            "wild",
            "Wild was not published: a figure of the conversion is not a number, so its output is not either.",
        ),
        (
            "unscored",
            (
                "Unscored was not published: nothing could be measured of this conversion, so it is kept and never "
                "published."
            ),
        ),
        ("locked", "Locked was left alone: the creator does not allow derivatives of this adapter."),
        ("broken", "Broken was put aside as broken or hostile: the file ends before its last tensor does."),
        ("waiting", "Waiting has not been settled: no run that saw it has come to an end with it."),
    ],
)
def test_the_first_line_says_what_became_of_an_adapter_and_why(gated: Path, name: str, first_line: str) -> None:
    run = ask(name, "--data", gated)

    assert run.exit_code == 0
    assert run.output.splitlines()[0] == first_line


def test_ledgers_of_before_three_outcomes_are_explained_too(old: Path) -> None:
    assert ask("faint", "--data", old).output.splitlines()[0] == (
        "Faint was not published: on samples of its own it brings digits-v2 only 21 % of the way to what it did on "
        "digits-v1; 50 % is asked."
    )
    output = ask("bold", "--data", old).output
    assert output.startswith("Bold was published: on samples of its own it brings digits-v2 91 % of the way to")
    assert "10 points over plain copy of the source weights" in output
    assert "published at: hub/bold" in output


def test_each_figure_is_told_with_interval_rivals_and_threshold(gated: Path) -> None:
    output = ask("weak", "--data", gated).output

    for line in (
        (
            "31 % of the way from doing nothing to what it did on its own base (95 % interval 26 % to 36 %); "
            "at least 40 % wanted: missed"
        ),
        "beside it, plain copy of the source weights: 20 % (95 % interval 15 % to 25 %)",
        "beside it, random weights of the same size: -20 % (95 % interval -25 % to -15 %)",
        (
            "51 points over random weights of the same size (95 % interval 49 points to 53 points); "
            "at least 10 points wanted: met"
        ),
        (
            "11 points over plain copy of the source weights (95 % interval 9 points to 13 points); "
            "up to 5 points under it allowed: met"
        ),
        (
            "change of digits-v2 on neutral prompts, beside the size of its output there (less is better): 0.10 "
            "(95 % interval 0.09 to 0.11); at most 0.30 wanted: met"
        ),
        "clip likeness: 0.80 (95 % interval 0.75 to 0.85)",
        "all of this on 16 samples, drawn for the catalogue's examples, neutral prompts",
        "23 of the 24 weights it patches have a home in digits-v2; the others hold 1 % of its squared norm",
    ):
        assert f"  {line}\n" in output


def test_what_lies_under_a_rival_is_said_so(gated: Path) -> None:
    assert (
        "  20 points under plain copy of the source weights (95 % interval 18 points to 22 points); "
        "up to 5 points under it allowed: missed\n"
    ) in ask("copied", "--data", gated).output


def test_the_meaning_of_every_reason_is_the_one_sentence_of_its_code(gated: Path) -> None:
    output = ask("weak", "--data", gated).output

    assert (
        f"gate-divergence-gain: {reasons()['gate-divergence-gain']} (what gate-divergence-gain says of Weak)" in output
    )


def test_it_says_where_the_files_lie(gated: Path) -> None:
    output = ask("weak", "--data", gated).output

    assert f"conversion: {gated}/conversions/{conversion_id(WEAK)}/files/out.safetensors\n" in output
    assert f"pictures before and after: {gated}/images/x.png\n" in output
    assert f"report: {gated}/reports/1.html\n" in output


def test_in_a_pipe_nothing_is_coloured_padded_or_broken_into_lines(gated: Path) -> None:
    output = ask("weak", "--data", gated).output

    assert "\x1b" not in output
    assert all(line == line.rstrip() for line in output.splitlines())


def test_on_a_terminal_lines_are_indented_as_a_whole_and_coloured() -> None:
    found = explain(ended("quarantined", "truncated"), Folders(Path("data")))
    with (
        console := Console(force_terminal=True, width=50, color_system="standard", highlight=False)
    ).capture() as shown:
        print_explanation(console, found)
    lines = shown.get().splitlines()

    assert "\x1b[" in lines[0]
    below = lines[next(number for number, line in enumerate(lines) if "What you can do" in line) + 1 :]
    assert len(below) > 1
    assert all(line.startswith("  ") for line in below)


def test_as_json_the_words_come_with_the_figures(gated: Path) -> None:
    values = json.loads(ask("weak", "--data", gated, "--json").stdout)

    assert (values["state"], values["name"], values["entry_key"]) == ("rejected", "Weak", WEAK.key)
    assert values["headline"].startswith("Weak was not published")
    assert [reason["code"] for reason in values["reasons"]] == ["gate-divergence-gain"]
    assert values["thresholds"] == GATE
    assert values["facts"]["figures"]["converted"]["divergence_gain"]["value"] == pytest.approx(0.31)
    assert values["facts"]["margins"]["copy"]["low"] == pytest.approx(0.09)
    assert values["facts"]["judgement"]["outcome"] == "fail"
    assert values["is_snapshot"] is False
    assert values["next"]


def test_a_conversion_or_a_part_of_its_id_names_its_adapter(gated: Path) -> None:
    for wanted in (conversion_id(UNSCORED), conversion_id(UNSCORED)[:10], UNSCORED.key, UNSCORED.entry_id):
        assert ask(wanted, "--data", gated).output.startswith("Unscored was not published")


@pytest.mark.parametrize(("wanted", "near"), [("week", "Did you mean weak"), ("qqqqqqq", "lorax query states")])
def test_an_unknown_adapter_ends_with_status_2_and_what_was_meant_perhaps(gated: Path, wanted: str, near: str) -> None:
    run = ask(wanted, "--data", gated)

    assert run.exit_code == 2
    assert (f"knows nothing about {wanted}" in run.stderr, near in run.stderr) == (True, True)
    assert run.stdout == ""


def test_without_a_ledger_it_ends_with_status_2_and_makes_nothing(data_folder: Path) -> None:
    assert ask("weak", "--data", data_folder).exit_code == 2
    assert not data_folder.exists()


def test_what_was_learnt_other_outcomes_and_conversions_are_named(data_folder: Path) -> None:
    body = dict(next(fact for fact in story() if fact[0] == "converted" and fact[1] == conversion_id(FAINT))[2])
    name = "0" * 64
    learnt = {"refreshed_from": conversion_id(FAINT), "refresh": {"divergence_gain": {"before": 0.21, "after": 0.305}}}
    end = {"state": "rejected", "reason": "gate-divergence-gain", "text": "x", "conversion_id": name, "name": "F"}
    told = "refreshed from copy in 24 steps, 5.1 s"
    remember(data_folder, story())
    with Ledger.open(data_folder / "ledger.duckdb", run_id="run-2") as ledger:
        ledger.append_many(
            [
                ("run_started", "run-2", {"migration": "later", "settings": {"refresh": {"allowed": True}}}),
                ("converted", name, {**body, "method": "refresh", **learnt}),
                ("outcome", FAINT.key, {**end, "work_key": "w", "refreshed": told}),
                ("converted", "1" * 64, {**body, "method": "copy"}),
            ]
        )
    output = ask("faint", "--data", data_folder).output

    assert f"it was {told}: from 21 % to 30 % of the way, on samples held out for it\n" in output
    assert "rejected (gate-divergence-gain) in digits-v1-to-v2\n" in output
    assert "conversion 111111111111 by copy to digits-v2\n" in output
    assert "give its refresh more time" in output
    assert json.loads(ask("faint", "--data", data_folder, "--json").stdout)["facts"]["conversion"]["learnt_from"]


def test_what_the_next_run_goes_on_with_needs_nothing_else() -> None:
    standing = Ending("m", REJECTED, "gate-divergence-gain", "x", "", "run-1", "2026-01-01", is_later=True)

    assert len(advice(ended(REJECTED, "x", standing=standing))) == 1


def test_a_shortage_of_samples_is_told_apart_from_a_shortage_of_gain() -> None:
    gain = Measured(0.45, 0.38, 0.52)
    figures = {"converted": {"divergence_gain": gain}}
    gate = {"divergence_gain": 0.4}
    old = Judgement("fail", (("gate-divergence-gain", "short"),), gate)
    account = ended(REJECTED, "gate-divergence-gain", conversion=MOVED, figures=figures, judgement=old)

    assert "45 % of the way to what it did on v1, but that may be as little as 38 %, where 40 %" in headline(account)
    assert "met by a part of the interval only" in next(iter(measured_words(account)))
    doubted = dataclasses.replace(
        account, judgement=Judgement("uncertain", old.reasons, gate), settings={"score": {"samples": 4}}
    )
    assert advice(doubted)[0].endswith("narrows the intervals: samples or rounds in [score] (now samples = 4)")
    assert not any("more samples" in line for line in advice(account))


@pytest.mark.parametrize(
    ("codes", "open_question"),
    [
        (["gate-divergence-gain"], "but its samples leave anything from 40 % to 50 % open, where 42 % is asked."),
        (["gate-worse-than-copy", "gate-divergence-gain"], "anything from 40 % to 50 % open, where 42 % is asked."),
        (
            ["gate-worse-than-copy"],
            "but its samples do not tell whether that is as good as a plain copy of the old file.",
        ),
        (["gate-figure"], "but its samples do not tell whether it meets the threshold on another figure."),
        (["of tomorrow"], "but its samples leave anything from 40 % to 50 % open, where 42 % is asked."),
    ],
)
def test_a_doubt_is_told_by_the_threshold_that_it_is_about(codes: list[str], open_question: str) -> None:
    reasons_given = tuple(("gate-uncertain", f"{code}: its figure [0.4, 0.5]") for code in codes)
    judgement = Judgement("uncertain", reasons_given, {"divergence_gain": 0.42})
    figures = {"converted": {"divergence_gain": Measured(0.45, 0.4, 0.5)}}
    account = ended(REJECTED, "gate-uncertain", conversion=MOVED, figures=figures, judgement=judgement)

    assert headline(account).endswith(open_question)


def test_without_a_verdict_no_threshold_is_known() -> None:
    assert Thresholds.of(ended(REJECTED, "not-scored")) == Thresholds()


def test_plain_words_are_about_figures_that_exist() -> None:
    from lorax.scorers import SCORERS
    from lorax.weight_scorers import WEIGHT_SCORERS

    assert set(MEANINGS) <= {*SCORERS, *WEIGHT_SCORERS}
    assert set(CANDIDATES) >= {"converted", *RIVALS, ZERO}


def test_what_passed_says_what_keeps_it_from_being_published() -> None:
    account = ended(PASSED, "publish-not-allowed", policy=(("licence-unknown", "no sidecar states a licence"),))

    assert headline(account) == "A passed the gate, but is not published: no sidecar states a licence."
    found = explain(account, Folders(Path("data")))
    assert [reason.code for reason in found.reasons] == ["publish-not-allowed", "licence-unknown"]
    assert found.next_steps[1] == NEXT["licence-unknown"]


def test_terms_that_were_no_reason_for_the_outcome_are_not_given_as_one() -> None:
    account = ended("skipped", "other-base", policy=(("licence-unknown", "x"),), base="sd1.5")

    assert [reason.code for reason in explain(account, Folders(Path("data"))).reasons] == ["other-base"]
    assert advice(account)[0] == 'add a [[pairs]] table with source = "sd1.5" and a target'


@pytest.mark.parametrize("state", [*STATES])
def test_every_code_in_every_state_has_its_sentence_and_something_to_do(state: str) -> None:
    for code in reasons():
        require_words(state, code)


def require_words(state: str, code: str) -> None:
    account = ended(state, code, conversion=MOVED, attempts=(Attempt("a", "copy", "v1", "v2", Measured(0.1), "fail"),))
    found = explain(account, Folders(Path("data")))

    assert found.reasons[0].sentence == reasons()[code] == sentence_of(code)
    assert found.headline.startswith("A ")
    assert found.headline.count(".") == 1
    assert found.next_steps
    assert not any("{" in line for line in found.next_steps)


def test_advice_is_about_codes_that_exist() -> None:
    assert set(NEXT) <= set(reasons())
    assert set(BY_STATE) == set(STATES)


def test_a_code_of_another_version_is_explained_by_what_was_said() -> None:
    found = explain(ended(REJECTED, "gate-of-tomorrow"), Folders(Path("data")))

    assert found.headline == "A was not published: said so."
    assert (found.reasons[0].sentence, found.reasons[0].text) == ("", "said so")


@pytest.mark.parametrize(
    ("value", "share", "difference"),
    [(0.305, "30 %", "30 points"), (-0.001, "0 %", "0 points"), (0.011, "1 %", "1 point"), (None, "?", "? points")],
)
def test_shares_are_said_as_people_say_them(value: float | None, share: str, difference: str) -> None:
    assert (percent(value), points(value)) == (share, difference)


@pytest.mark.parametrize("name", ["locked", "weak"])
def test_explaining_needs_neither_torch_nor_prefect(gated: Path, repository: Path, name: str) -> None:
    block = "import sys; sys.modules.update(dict.fromkeys(('torch', 'prefect', 'diffusers', 'transformers')))"
    code = f"{block}; sys.argv[1:] = ['explain', {name!r}]; from flows.command_line import main; main()"
    environment = {"LORAX_DATA": str(gated), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
