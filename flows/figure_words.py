"""The figures of a conversion in words, each with its interval, beside the threshold that it is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from catalogs.explain import Account
from catalogs.model_card import CANDIDATES
from catalogs.report_data import LEADING_FIGURE, Measured

ZERO, COPY, RANDOM = "zero", "copy", "random"
RIVALS = (COPY, RANDOM)
"""Candidates that are named beside the conversion; doing nothing is 0 % by definition."""

MEANINGS: Mapping[str, str] = {
    "effect_cosine": "likeness of its effect to the one on {source} (1 the same direction, 0 nothing in common)",
    "effect_gain": "strength of that effect (1 as strong as on {source})",
    "drift": "change of {target} on neutral prompts, beside the size of its output there (less is better)",
    "relative_drift": "change on neutral prompts, beside what it changed on {source} there (1 as much, less is better)",
    "reversion": "how far it turns {target} back into {source} on neutral prompts (0 not at all, 1 wholly)",
    "likeness": "how far pictures go from those of {target} to those that it drew on {source} (1 all the way)",
    "style": "how far the style of pictures goes there (1 all the way)",
    "prompt_agreement": "how well pictures fit their prompts, beside those that it drew on {source} (0 as well)",
    "preference": "how much people would like the pictures, beside those that it drew on {source} (0 as much)",
    "diversity": "how different its pictures are among themselves (1 as on {source})",
    "sample_loss": "how well {target} writes what it wrote on {source} (1 as well as there, 0 as without it)",
    "predicted_gain": "what it gains on the given text, beside its gain on {source} (1 as much)",
    "exact_match": "share of the given questions that are answered word for word",
    "perplexity": "perplexity on the given text (less is better)",
    "kept_norm": "size of its weights after the conversion (1 as before)",
    "subspace_agreement": "how far its weights point where they did (1 wholly, 0 as by chance)",
    "unison": "how far its parts pull the same way in {target} (1 as on {source}, about half as by chance)",
    "divergence": "by how many nats a token what {target} says is off from what it said on {source} (less is better)",
    "homeless": "share of its weights, squared, that has no place in {target}",
    "missing": "share of its weights, squared, that has a place in {target} and was not written there",
    "forecast": "what the plan foresaw of its effect (1 all of it)",
}
"""What figures mean for people; others go by their names."""
_WORDS: Mapping[str, str] = {
    "catalogue": "the catalogue's examples",
    "trigger words": "its trigger words",
    "dataset": "words of its training set",
    "neutral": "neutral prompts",
}
"""Where prompts came from, in the words of people."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a conversion was held to; None and empty where nothing is known."""

    divergence_gain: float | None = None
    margin_over_random: float | None = None
    allowed_under_copy: float | None = None
    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, account: Account) -> Thresholds:
        """Returns the thresholds of an account's verdict."""
        gate = account.judgement.gate if account.judgement else {}
        names = (LEADING_FIGURE, "margin_over_random", "allowed_under_copy")
        found = {name: _number(gate.get(name)) for name in names}
        return cls(**found, least=_numbers(gate.get("least")), most=_numbers(gate.get("most")))


def percent(value: float | None) -> str:
    """Returns a share as people say it: 0.305 as `31 %`."""
    return "?" if value is None else f"{round(100 * value) or 0} %"


def span(figure: Measured, worded: Callable[[float | None], str]) -> str:
    """Returns the interval of a figure in words; empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"anything from {worded(figure.low)} to {worded(figure.high)}"


def brought(account: Account, *, few: bool = False) -> str:
    """Says how far a conversion brings the target, as a clause; `few` says that this is not enough."""
    made, gain = account.conversion, account.figure().value or 0.0
    source, target = (made.source, made.target) if made else ("the old base", "the new base")
    if round(100 * gain) < 0:
        return f"on samples of its own it takes {target} further away from what it did on {source} than doing nothing"
    only = "only " if few else ""
    return f"on samples of its own it brings {target} {only}{percent(gain)} of the way to what it did on {source}"


def measured_words(account: Account) -> Iterator[str]:
    """Yields a sentence per figure, the leading one first; nothing where nothing was measured."""
    thresholds, gain = Thresholds.of(account), account.figure()
    if "converted" in account.figures:
        yield _leading(gain, thresholds)
        yield from _beside(account)
        yield from _margins(account, thresholds)
        yield from _other_figures(account, thresholds)
    if account.samples:
        words = ", ".join(_WORDS.get(word, word) for word in dict.fromkeys(account.words))
        yield f"all of this on {account.samples} samples" + (f", drawn for {words}" if words else "")
    yield from _learnt(account)
    yield from _lost(account)


def _leading(gain: Measured, thresholds: Thresholds) -> str:
    if gain.value is None:
        return "the leading figure, the divergence gain, is not a number"
    told = (
        f"{percent(gain.value)} of the way from doing nothing to what it did on its own base{_between(gain, percent)}"
    )
    return told + _held(gain, thresholds.divergence_gain, percent)


def _beside(account: Account) -> Iterator[str]:
    for rival in (*RIVALS, *sorted(set(account.figures) - {*RIVALS, ZERO, "converted"})):
        gain = account.figure(of=rival)
        if gain.value is not None:
            yield f"beside it, {CANDIDATES.get(rival, rival)}: {percent(gain.value)}{_between(gain, percent)}"


def _margins(account: Account, thresholds: Thresholds) -> Iterator[str]:
    """Yields how far it lies over its rivals: on the same samples, or as a difference where older ledgers lack that."""
    own = account.figure().value
    wanted = {ZERO: 0.0, RANDOM: thresholds.margin_over_random}
    if thresholds.allowed_under_copy is not None:
        wanted[COPY] = -thresholds.allowed_under_copy
    for rival in (*RIVALS, *sorted(set(account.margins) - set(RIVALS))):
        other = account.figure(of=rival).value
        margin = account.margins.get(rival) or Measured(None if own is None or other is None else own - other)
        if margin.value is not None and not (rival == ZERO and margin.value == own):
            yield _distance(margin, CANDIDATES.get(rival, rival)) + _held(margin, wanted.get(rival), points, _allowed)


def _distance(margin: Measured, rival: str) -> str:
    """Says how far over or under a rival it lies, the interval on the same side."""
    if round(100 * (margin.value or 0.0)) >= 0:
        return f"{points(margin.value)} over {rival}{_between(margin, points)}"
    under = Measured(*(None if end is None else -end for end in (margin.value, margin.high, margin.low)))
    return f"{points(under.value)} under {rival}{_between(under, points)}"


def _allowed(threshold: float) -> str:
    return f"at least {points(threshold)} wanted" if threshold >= 0 else f"up to {points(-threshold)} under it allowed"


def points(value: float | None) -> str:
    """Returns a difference of shares as people say it: 0.05 as `5 points`."""
    shown = "?" if value is None else str(round(100 * value) or 0)
    return f"{shown} point" if shown in {"1", "-1"} else f"{shown} points"


def _other_figures(account: Account, thresholds: Thresholds) -> Iterator[str]:
    made = account.conversion
    names = {"source": made.source if made else "its own base", "target": made.target if made else "the new base"}
    found = account.figures["converted"]
    for name in (*(name for name in MEANINGS if name in found), *sorted(set(found) - set(MEANINGS))):
        if name != LEADING_FIGURE:
            figure = found[name]
            told = MEANINGS.get(name, name.replace("_", " ")).format(**names)
            held = _held(figure, thresholds.least.get(name), _plain)
            held += _held(figure, thresholds.most.get(name), _plain, at_least=False)
            yield f"{told}: {_plain(figure.value)}{_between(figure, _plain)}{held}"


def _learnt(account: Account) -> Iterator[str]:
    made, told = account.conversion, account.standing.refreshed if account.standing else ""
    if made is not None and told:
        changed = made.before is not None and made.after is not None
        way = f": from {percent(made.before)} to {percent(made.after)} of the way, on samples held out for it"
        yield f"it was {told}{way if changed else ''}"


def _lost(account: Account) -> Iterator[str]:
    made = account.conversion
    if made is not None and made.sites_total and made.sites_mapped != made.sites_total:
        share = "" if made.dropped is None else f"; the others hold {percent(made.dropped)} of its squared norm"
        yield f"{made.sites_mapped} of the {made.sites_total} weights it patches have a home in {made.target}{share}"
    if account.left_out:
        yield f"{account.left_out} tensors of its file were left out on reading: `lorax trace` names them"


def _between(figure: Measured, worded: Callable[[float | None], str]) -> str:
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return ""
    return f" (95 % interval {worded(figure.low)} to {worded(figure.high)})"


def _held(
    figure: Measured,
    threshold: float | None,
    worded: Callable[[float | None], str],
    wanted: Callable[[float], str] | None = None,
    *,
    at_least: bool = True,
) -> str:
    """Says which threshold a figure is held to, and whether all, a part or nothing of its interval meets it.

    wanted: words the threshold, otherwise as the figure is worded.
    """
    if threshold is None or figure.value is None:
        return ""
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    worst, best = (low - threshold, high - threshold) if at_least else (threshold - high, threshold - low)
    met = "met" if worst >= 0 else "missed" if best < 0 else "met by a part of the interval only"
    usual = f"{'at least' if at_least else 'at most'} {worded(threshold)} wanted"
    return f"; {wanted(threshold) if wanted else usual}: {met}"


def _plain(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.2f}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _numbers(values: object) -> dict[str, float]:
    pairs = values.items() if isinstance(values, dict) else ()
    return {str(name): float(value) for name, value in pairs if isinstance(value, int | float)}
