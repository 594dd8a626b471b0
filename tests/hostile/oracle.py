"""Another opinion on safetensors bytes, after the words of the format and our own limits. No line of it is lorax'.

The format: eight bytes that give the length of a JSON object, which starts at once and may be padded with spaces, then
the bytes of the tensors. Every name but `__metadata__` (texts by key) has a dtype, a shape and data_offsets; keys are
unique; the spans leave no byte of the body out and take none twice. Our limits: see OURS.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1,
    "F8_E5M2": 1,
}  # fmt: skip
OURS = {"header bytes": 8 * 2**20, "tensors": 40_000, "dimensions": 5, "name bytes": 512}


class _Unsound(Exception):  # noqa: N818 - an answer, not an error
    pass


def is_sound(content: bytes) -> bool:
    """Tells whether a file is sound: by counting how often each byte of the body is claimed."""
    try:
        claims = _claims(content)
    except (_Unsound, ValueError, RecursionError):
        return False
    return bool((claims == 1).all())


def _claims(content: bytes) -> np.ndarray[Any, Any]:
    size = int.from_bytes(content[:8], "little")
    _require(len(content) >= 8 and size <= min(len(content) - 8, OURS["header bytes"]))
    text, body = content[8 : 8 + size].decode("utf-8"), content[8 + size :]
    _require(text.startswith("{") and text.rstrip(" ").endswith("}"))
    decoder = json.JSONDecoder(object_pairs_hook=_Object, parse_constant=_refuse, parse_int=_count, parse_float=_refuse)
    header = decoder.decode(text)
    header.require_unique()
    _require(len(header.pairs) <= OURS["tensors"])
    claims = np.zeros(len(body), dtype=np.int64)
    for name, described in header.pairs:
        if name == "__metadata__":
            _check_metadata(described)
        else:
            begin, end = _span(name, described, len(body))
            claims[begin:end] += 1
    return claims


class _Object:
    """A JSON object as it was written."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs

    def require_unique(self) -> None:
        _require(len({key for key, _ in self.pairs}) == len(self.pairs))


def _require(condition: Any) -> None:
    if not condition:
        raise _Unsound


def _refuse(_text: str) -> None:
    raise _Unsound


def _count(text: str) -> int:
    _require(not text.startswith("-"))
    return int(text)


def _check_metadata(described: Any) -> None:
    _require(isinstance(described, _Object))
    described.require_unique()
    for key, value in described.pairs:
        _require(isinstance(value, str))
        (key + value).encode("utf-8")


def _span(name: str, described: Any, body_bytes: int) -> tuple[int, int]:
    _require(name and name.isprintable() and len(name.encode("utf-8")) <= OURS["name bytes"])
    _require(isinstance(described, _Object))
    described.require_unique()
    fields = dict(described.pairs)
    _require(fields.keys() == {"dtype", "shape", "data_offsets"})
    dtype, shape, span = fields["dtype"], fields["shape"], fields["data_offsets"]
    _require(isinstance(dtype, str) and dtype in SIZES)
    _require(isinstance(shape, list) and isinstance(span, list) and len(span) == 2)
    _require(len(shape) <= OURS["dimensions"])
    # Booleans are numbers in Python, and not in JSON.
    _require(all(type(number) is int for number in [*shape, *span]))
    _require(all(shape))
    count = 1
    for number in shape:
        count *= number
    begin, end = span
    _require(begin <= end <= body_bytes and end - begin == count * SIZES[dtype])
    return begin, end
