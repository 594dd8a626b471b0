"""The measured figures of one conversion, with the controls beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from lorax.scorer import Figure


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """`figures[candidate][figure]`; candidates: `converted`, `copy`, `random` and `zero`, the target base itself."""

    figures: Mapping[str, Mapping[str, Figure]]
    probe_id: str

    def to_json(self) -> str:
        """Returns the card as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ScoreCard:
        """Rebuilds the card that `to_json` wrote."""
        body = json.loads(text)
        figures = {
            candidate: {name: Figure(**figure) for name, figure in found.items()}
            for candidate, found in body["figures"].items()
        }
        return cls(figures, body["probe_id"])
