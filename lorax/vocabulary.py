"""Which tokens two language models share, from the tokenizer files that lie beside their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.errors import Stop

_FILES = ("tokenizer.json", "vocab.json")
_MOST_BYTES = 256 * 2**20


def vocabulary(folder: Path) -> dict[str, int]:
    """Returns the number of each token of a transformers folder, added tokens included.

    Reads tokenizer.json (BPE, WordPiece, word level: a table; Unigram: a list), else vocab.json. Raises Stop where
    neither is there or the one that is there cannot be read.
    """
    found = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if found is None:
        raise Stop(
            f"{folder}: found neither {' nor '.join(_FILES)}; tokens of two models are paired by what they stand for, "
            "so put the tokenizer's files beside the weights"
        )
    try:
        return _tokens(_read(found))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Stop(f"{found}: no vocabulary can be read from it ({error!r}); download it again") from error


def shared_rows(source: Mapping[str, int], target: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """Returns the rows of (source, target) for every token that both have, int64, ordered by the target's rows."""
    pairs = sorted((row, source[token]) for token, row in target.items() if token in source)
    both = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return both[:, 1], both[:, 0]


def _read(file: Path) -> Any:  # noqa: ANN401 - JSON of any shape
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    return json.loads(file.read_bytes())


def _tokens(content: Mapping[str, Any]) -> dict[str, int]:
    if "model" not in content:
        return {token: int(row) for token, row in content.items()}
    table = content["model"]["vocab"]
    listed = enumerate(entry[0] for entry in table) if isinstance(table, list) else None
    tokens = {token: row for row, token in listed} if listed else {token: int(row) for token, row in table.items()}
    return tokens | {each["content"]: int(each["id"]) for each in content.get("added_tokens") or []}
