"""What to expect of each method on a pair of bases, in words: judgement from measurements, not a measurement.

Per cents are the recovered lift: 100 is as good as an adapter trained on the target, 0 as good as none. Figures "on the
examples" are means over adapters of docs/benchmarks.md.
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
        "auto": "as copy",
        "refresh": "not needed",
    },
    "lineage": {
        "copy": "60 to 100 %, 84 to 86 % on the examples; hard to beat",
        "lora-x": "less than copy, 36 to 59 % on the examples: a projection only shrinks",
        "auto": "copy or better, 85 to 89 % on the examples",
        "refresh": "95 % on the examples, in a third to a seventh of the time of training anew",
    },
    "blocks-removed": {
        "copy": "0 to 99 %, can be negative: score it; what had no home is lost",
        "lora-x": "0 to 90 %; may help where the target lost directions: score it against copy",
        "auto": "as copy or better; score it",
        "refresh": "starts from the best of these; also makes up for what had no home",
    },
    "related": {
        "copy": "anything from harm to 80 %: score it",
        "lora-x": "no better founded than copy",
        "auto": "0 to 60 %: score it against copy and against no adapter",
        "refresh": "if the score of the others is too low",
    },
    "strangers": {
        "copy": "nothing or harm: -4 to 2 % on the examples",
        "lora-x": "nothing: -2 % on the examples",
        "auto": "28 to 34 % on the examples: a start for refresh",
        "refresh": "93 to 98 % on the examples, in the time of training anew",
    },
    "other-width": {
        "copy": "impossible where shapes differ",
        "lora-x": "impossible where shapes differ",
        "auto": "24 % on the example: a start for refresh",
        "refresh": "92 % on the example, in the time of training anew",
    },
    "unrelated": {
        "copy": "nothing but text encoders that both have",
        "lora-x": "nothing",
        "auto": "nothing",
        "refresh": "the only way, where both can be run on the same inputs",
    },
    "unknown": dict.fromkeys(("copy", "lora-x", "auto", "refresh"), "depends on the weights"),
}
"""What each method can be expected to recover, by case."""
