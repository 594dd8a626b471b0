"""The measured figures of one conversion, with the controls beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lorax.scorer import Figure

CONVERTED = "converted"


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """`figures[candidate][figure]`; candidates: `converted`, `copy`, `random` and `zero`, the target base itself.

    margins: by rival, how much more of the divergence gain the conversion has, measured on the same samples;
    samples: how many were drawn; kind: of the models, "diffusion" or "language"; words: where the prompts came from.
    """

    figures: Mapping[str, Mapping[str, Figure]]
    probe_id: str
    margins: Mapping[str, Figure] = field(default_factory=dict)
    samples: int = 0
    kind: str = ""
    words: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the card as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ScoreCard:
        """Rebuilds the card that `to_json` wrote, now or before there were margins."""
        return cls.from_values(json.loads(text))

    @classmethod
    def from_values(cls, body: Mapping[str, Any]) -> ScoreCard:
        """Rebuilds a card from JSON's values; a number that is null was not finite."""
        return cls(
            {candidate: _figures(found) for candidate, found in body["figures"].items()},
            body["probe_id"],
            _figures(body.get("margins", {})),
            int(body.get("samples", 0)),
            str(body.get("kind", "")),
            tuple(body.get("words", ())),
        )


def _figures(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Figure]:
    nothing = float("nan")
    return {
        name: Figure(**{part: nothing if number is None else number for part, number in figure.items()})
        for name, figure in values.items()
    }
