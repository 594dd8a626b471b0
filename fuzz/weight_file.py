"""Fuzzes the door for weight files, guided by coverage.

    python -m fuzz.weight_file FOLDER [options of libFuzzer, such as -max_total_time=600]

FOLDER keeps the corpus; where it is empty, the seeds are written into it first. See fuzz/README.md.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    sys.exit('The fuzzer is not installed: pip install "atheris>=3,<4" (Linux). The checks alone run in the tests.')

with atheris.instrument_imports(include=["lorax"]):
    from fuzz.checks import check_weight_file, seeds

from fuzz.mutations import mutated

_OPTIONS = ("-timeout=2", "-max_len=8192", "-print_final_stats=1")


def _mutate(content: bytes, max_size: int, seed: int) -> bytes:
    def any_change(part: bytes) -> bytes:
        return bytes(atheris.Mutate(part, min(max_size, len(part) + 64)))

    return mutated(content, Random(seed), any_change=any_change)[:max_size]  # noqa: S311 - changes, not secrets


def _test_one(content: bytes) -> None:
    check_weight_file(content)


def _fill(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for content in seeds():
            (corpus / sha256(content).hexdigest()[:16]).write_bytes(content)


def main() -> None:
    """Writes the seeds if there are none, and fuzzes until it is stopped or finds something."""
    places = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if not places:
        sys.exit(__doc__)
    if not places[0].is_file():
        _fill(places[0])
    atheris.Setup([sys.argv[0], *_OPTIONS, *sys.argv[1:]], _test_one, custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
