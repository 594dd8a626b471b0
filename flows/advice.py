"""What one can do about an adapter that was not published, by reason code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catalogs.explain import Account
from flows.states import FAILED, PASSED, PUBLISHED, QUARANTINED, REJECTED, SKIPPED

_REFRESH = "refresh"
_GATE = (
    "gate-divergence-gain",
    "gate-not-better-than-nothing",
    "gate-not-better-than-random",
    "gate-worse-than-copy",
    "gate-figure",
    "gate-uncertain",
)
"""Codes of conversions that another way of making them may help."""

_SETTLED = frozenset({"duplicate", "opt-out", "html-page", "missing-weights"})
"""Codes whose advice is all that there is to say."""
_STRUCTURE = "`lorax inspect` on its file shows what it holds; if a tool in use wrote it, its names are worth a report"
_NO_SETTING = "no setting opens this; if the mark is wrong, have it corrected {origin}"
_NAME_BASE = "name its base in a sidecar or card beside it (baseModel, base_model), as the labels of [bases] spell it"

NEXT: Mapping[str, str] = {
    "gate-worse-than-copy": 'take method = "copy" for this pair, or "auto", which chooses between both at each site',
    "gate-non-finite": "see whether {target} itself gives finite outputs; if it does, try another method for this pair",
    "gate-figure": "look at the figure that the text names, and at its threshold in [gate]",
    "no-derivatives": "ask its creator; require_derivatives = false in [policy] converts it for private use only",
    "licence-unknown": "write its terms into a sidecar or card beside it, or set licence_unknown in [policy]",
    "licence-forbids": "if its licence is one that you may use, add it to licences_allowed in [policy]",
    "real-person": _NO_SETTING,
    "minor": _NO_SETTING,
    "gated": _NO_SETTING,
    "opt-out": "leave it alone; where it is a pattern of your own, that stands in opt_out of [policy]",
    "not-an-adapter": "move it out of the catalogue, or correct `type` in its sidecar",
    "duplicate": "nothing: the other entry goes on, and this copy can be deleted",
    "other-base": 'add a [[pairs]] table with source = "{base}" and a target',
    "publish-not-allowed": "use the files below as its terms allow; what forbids to publish them is named above",
    "not-scored": "give both bases of the pair a folder that can be run, in [bases]",
    "name-taken": "move away what lies in its place on the hub",
    "disk-full": "make room on the disk",
    "out-of-memory": "free some memory, or run fewer at once: LORAX_ENGINE=thread=1",
    "unexpected-error": "report it with its traceback: lorax query \"SELECT body->>'$.traceback' FROM event "
    "WHERE kind = 'outcome' AND subject = '{key}'\"",
    "pickle": "ask its author for a safetensors file; convert a pickle only where it can do no harm",
    "html-page": "download it again {origin}, logged in if the site asks for it",
    "non-finite": "ask its author for another version: a training that ended in NaN cannot be repaired",
    "all-zero": "ask its author for another version: this file changes nothing, on its own base either",
    "bad-config": "put the adapter_config.json that belongs to it beside its weights",
    "missing-weights": "put its weights beside its configuration",
    "base-undecided": _NAME_BASE,
    "base-contradicted": _NAME_BASE,
    "base-unknown": "add its base model to [bases], with a folder or a known name",
    "needs-base": "give its base model a folder with weights in [bases]",
    "unknown-dialect": _STRUCTURE,
    "ambiguous-dialect": _STRUCTURE,
    "unknown-tensor": _STRUCTURE,
    "unsupported-algorithm": _STRUCTURE,
    "unwritable": 'choose another dialect for this pair, such as dialect = "peft"',
    "no-common-site": "choose another target: these two have nothing in common that it patches",
    "would-harm": "let it be learnt: `lorax convert --method refresh`, or another target",
}  # fmt: skip
"""What to do next, by reason code, in the imperative; {target}, {base}, {origin} and {key} are filled in."""

BY_STATE: Mapping[str, str] = {
    FAILED: "run the same migration again: it tries what has failed once more",
    QUARANTINED: "get the file again {origin}; bytes that have changed are looked at anew by the next run",
    SKIPPED: "then run the same migration again: it does anew what has changed",
    REJECTED: "run the same migration again after a change of the settings: only what it concerns is done anew",
    PASSED: "run the same migration again after a change of its terms or of [policy]",
    PUBLISHED: "nothing: `lorax trace {key}` shows where it comes from",
}
"""What goes for every outcome of a state."""


def advice(account: Account) -> tuple[str, ...]:
    """Returns what one can do next, the most helpful first, each a sentence without a full stop."""
    if account.standing is None:
        return ("run the migration again: it goes on where it stopped",)
    known = {
        "target": account.conversion.target if account.conversion else "the target",
        "base": account.base or account.base_label or "?",
        "origin": f"from {account.origin}" if account.origin.startswith("http") else "where it was found",
        "key": account.entry_key.replace("'", "''"),
    }
    if account.standing.is_later:
        return ("run the same migration again: the time for refreshes was spent before its turn came",)
    codes = reason_codes(account)
    found = [NEXT[code].format(**known) for code in codes if code in NEXT]
    if any(code in _GATE for code in codes):
        found += _after_the_gate(account)
    if account.standing.reason not in _SETTLED:
        found.append(BY_STATE[account.standing.state].format(**known))
    return tuple(dict.fromkeys(found))


def reason_codes(account: Account) -> tuple[str, ...]:
    """Returns the codes of all reasons: of the outcome, then of the verdict and of the policy where they speak too."""
    if account.standing is None:
        return ()
    codes = [account.standing.reason]
    if account.standing.state == REJECTED and account.judgement is not None:
        codes += [code for code, _ in account.judgement.reasons]
    terms = [code for code, _ in account.policy]
    if account.standing.state == PASSED or account.standing.reason in terms:
        codes += terms
    return tuple(dict.fromkeys(codes))


def _after_the_gate(account: Account) -> Iterator[str]:
    """Yields what may help a conversion that can be measured and is not good enough, or not surely."""
    judged, made, settings = account.judgement, account.conversion, account.settings
    score, allowed = _table(settings, "score"), _table(settings, _REFRESH).get("allowed")
    if judged is not None and judged.outcome == "uncertain":
        now = ", ".join(f"{name} = {score[name]}" for name in ("samples", "rounds") if name in score)
        yield "score on more samples, which narrows the intervals: samples or rounds in [score]" + (
            f" (now {now})" if now else ""
        )
    if account.standing is None or not account.standing.refreshed:
        switch = "" if allowed else ": allowed = true in [refresh]"
        yield f"let it be learnt from samples of its own{switch}; this carries what no formula does"
    else:
        yield "give its refresh more time: seconds_per_adapter in [refresh]"
    now = f' (now "{made.method}")' if made and made.method != _REFRESH else ""
    yield f"try another method for this pair{now}; `lorax compare` tells what to expect of each"
    yield "see that it is called by its name: trigger words in its sidecar or card, and prompts in [score]"
    yield "if you can live with these figures, lower the threshold in [gate]"


def _table(settings: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}
