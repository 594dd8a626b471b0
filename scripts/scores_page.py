"""The page docs/scores.md: every figure of a score card, what it looks at, and the gate's defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OPENING = """# Figures, encoders and thresholds

What a score card can hold. [scoring.md](scoring.md) says how figures come about and how far they can be trusted.
Figures that the models or the settings give no occasion for are left out: those of pictures need an encoder in the
migration's `[encoders]`, `perplexity` and `predicted_gain` a file `predict`, `exact_match` a file `questions` in its
`[score]`. With several encoders each has its own: `likeness:NAME`."""


def page() -> str:
    """Returns the page."""
    from lorax.encoders import ENCODERS
    from lorax.gate import GATE_REASONS
    from lorax.gate_settings import DEFAULTS
    from lorax.scorers import SCORERS
    from lorax.views import VIEWS
    from lorax.weight_scorers import WEIGHT_SCORERS

    views = {view.name: view.summary for view in VIEWS.values()}
    figures = [
        (f"`{one.name}`", one.summary, f"`{one.view}`", ", ".join(one.kinds), _better(one), one.reference)
        for one in SCORERS.values()
    ]
    weights = [(f"`{one.name}`", one.summary, _better(one), one.reference) for one in WEIGHT_SCORERS.values()]
    thresholds = [
        (kind, one.divergence_gain, one.margin_over_random, one.allowed_under_copy, _named(one.least), _named(one.most))
        for kind, one in DEFAULTS.items()
    ]
    return "\n\n".join(
        [
            OPENING,
            "## From models that are run",
            _table(["figure", "what it says", "looks at", "models", "better", "source"], figures),
            "## What they look at",
            _table(["view", "what it shows"], [(f"`{name}`", summary) for name, summary in views.items()]),
            "## From the weights alone\n\nExact, cheap and the weakest: they tell what a file lacks, not what it does.",
            _table(["figure", "what it says", "better", "source"], weights),
            "## Encoders\n\n`kind` in `[encoders.NAME]`; [encoders.md](encoders.md) says where to get them.",
            _table(
                ["kind", "what it is", "source"],
                [(f"`{one.name}`", one.summary, one.reference) for one in ENCODERS.values()],
            ),
            "## Thresholds of the gate\n\nDefaults by kind of model; `[gate]` and `[gate.families.NAME]` change them.",
            _table(
                ["models", "divergence gain", "over random", "allowed under copy", "others: least", "others: most"],
                thresholds,
            ),
            _table(["code", "what it means"], [(f"`{code}`", text) for code, text in GATE_REASONS.items()]),
        ]
    )


def _better(one: Any) -> str:  # noqa: ANN401 - scorers of both kinds
    return "higher" if one.higher_is_better else "lower"


def _named(values: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(str(cell).split()) for cell in line) + " |" for line in lines)
