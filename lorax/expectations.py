"""What to expect of each method on a pair of bases, in words: judgement and small trials, no measurement of the pair.

Per cents are the recovered lift: 100 is as good as an adapter trained on the target, 0 as good as none. Figures "in a
trial" were measured on small language models with rank-8 adapters.
"""

from __future__ import annotations

from typing import Literal

Case = Literal["same", "lineage", "blocks-removed", "related", "strangers", "other-width", "unrelated", "unknown"]

CASES: dict[Case, str] = {
    "same": "the same weights",
    "lineage": "one lineage: the one was trained on from the other, or both from a third",
    "blocks-removed": "one lineage, but blocks were removed or added",
    "related": "related: the weights agree more than chance, far less than two checkpoints of one run",
    "strangers": "strangers: two separate trainings of equal shapes",
    "other-width": "other widths: most weights differ in shape",
    "unrelated": "no known correspondence",
    "unknown": "unknown: without weights nobody can tell; give the folders of both bases",
}
"""How the two bases are related, in words."""

EXPECTED: dict[Case, dict[str, str]] = {
    "same": {
        "copy": "about 100 %",
        "lora-x": "less: a projection only shrinks the update",
        "calibrated": "as copy",
        "refresh": "not needed",
    },
    "lineage": {
        "copy": "80 to 100 %; hard to beat",
        "lora-x": "less than copy: a projection only shrinks (.33 to .59 where copy had .91, in a trial)",
        "calibrated": "80 to 100 %; copy or slightly better",
        "refresh": "97 to 99 % after 25 steps from copy, in a trial",
    },
    "blocks-removed": {
        "copy": "0 to 90 %, can be negative: score it; what had no home is lost",
        "lora-x": "0 to 90 %; may help where the target lost directions: score it against copy",
        "calibrated": "0 to 90 %; score it against copy",
        "refresh": "starts from the best of these; can also make up for what had no home",
    },
    "related": {
        "copy": "anything from harm to 80 %: score it",
        "lora-x": "no better founded than copy",
        "calibrated": "0 to 60 %: score it against copy and against no adapter",
        "refresh": "if the score of the others is too low",
    },
    "strangers": {
        "copy": "harmful: -17 % in a trial",
        "lora-x": "nothing or harm: -8 to -16 % in a trial",
        "calibrated": "0 to 60 %; 9 % in a trial: a start for refresh",
        "refresh": "89 to 91 % after 300 steps from calibrated, in a trial",
    },
    "other-width": {
        "copy": "impossible where shapes differ",
        "lora-x": "impossible where shapes differ",
        "calibrated": "0 to 60 %; 12 % in a trial: a start for refresh",
        "refresh": "89 % after 200 steps from calibrated, in a trial",
    },
    "unrelated": {
        "copy": "nothing but text encoders that both have",
        "lora-x": "nothing",
        "calibrated": "nothing",
        "refresh": "the only way: a new adapter, distilled from what source and adapter make together",
    },
    "unknown": dict.fromkeys(("copy", "lora-x", "calibrated", "refresh"), "depends on the weights"),
}
"""What each method can be expected to recover, by case."""
