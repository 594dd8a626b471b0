"""The header of a safetensors file, checked far more strictly than the format's own reader does.

A header is believed only when every name is printable and unique, every shape and element type is possible, and the
byte ranges tile the rest of the file exactly. What passes here is accepted by safetensors too, with equal names, shapes
and bytes. Pure functions over bytes; the standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from lorax.errors import BadFile

ELEMENT_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of one element by safetensors' name of the element type."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds what one file may cost, whatever its header claims.

    header_bytes: the largest real header seen is 0.25 MB, a thumbnail may add some MB; rank: of one update;
    rank_to_width: rank of an update over the narrower side of the weight it patches;
    config_bytes: of the JSON file beside the weights.
    """

    header_bytes: int = 16 * 2**20
    tensors: int = 50_000
    dimensions: int = 5
    name_bytes: int = 512
    rank: int = 1024
    rank_to_width: float = 1.0
    config_bytes: int = 2**20


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Tells where one tensor lies: begin and end are offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it was written, repeated keys included."""


def parse_header(
    header: bytes, *, body_bytes: int, limits: ReadLimits, where: str
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Gives the tensors by name, in the order of their bytes, and the metadata. Raises BadFile.

    header: the JSON bytes without the length before them; body_bytes: how many bytes follow the header.
    """
    pairs = _load(header, limits, where)
    metadata: dict[str, str] = {}
    entries: dict[str, TensorEntry] = {}
    if len(pairs) - 1 > limits.tensors:
        raise BadFile(
            "too-many-tensors", f"the header lists {len(pairs)} tensors, the limit is {limits.tensors}", where=where
        )
    for position, (name, value) in enumerate(pairs):
        if name == "__metadata__":
            if any(earlier == name for earlier, _ in pairs[:position]):
                raise BadFile("header-invalid", "the header has two __metadata__ objects; one is expected", where=where)
            metadata = _metadata(value, where)
        elif name in entries:
            raise BadFile("duplicate-tensor", f"tensor {name!r} is listed twice; names have to be unique", where=where)
        else:
            entries[name] = _entry(name, value, start=8 + len(header), limits=limits, where=where)
    return _tiled(entries, start=8 + len(header), body_bytes=body_bytes, where=where), metadata


def _load(header: bytes, limits: ReadLimits, where: str) -> _Pairs:
    if not header.startswith(b"{"):
        raise BadFile(
            "header-invalid", f"the header starts with {header[:8]!r}; a JSON object is expected", where=where
        )
    _bounded_structure(header, limits, where)
    try:
        # json.loads would accept a UTF-16 header; the format is UTF-8.
        found = json.loads(header.decode("utf-8"), object_pairs_hook=_Pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadFile("header-not-json", f"the header is not JSON in UTF-8: {error}", where=where) from None
    if not isinstance(found, _Pairs):
        raise BadFile("header-invalid", f"the header is {type(found).__name__}; a JSON object is expected", where=where)
    if header.rstrip(b" ")[-1:] != b"}":
        raise BadFile("header-invalid", "the header is padded with something else than spaces", where=where)
    return found


_LONG_HEADER = 2**20
_STRING = re.compile(rb'"[^"]*+"?')


def _bounded_structure(header: bytes, limits: ReadLimits, where: str) -> None:
    """Refuses a long header made of many small JSON values: once parsed, each byte of it would cost a hundred."""
    if len(header) <= _LONG_HEADER:
        return
    # Within a string a quotation mark follows a backslash, so these are objects for certain, and quickly counted.
    certain = sum(header.count(start) - header.count(b"\\" + start) for start in (b'":{', b'": {'))
    outside_strings = _STRING.sub(b"", _unescaped(header)) if certain <= limits.tensors + 2 else b""
    # Beside the tensors there are the header itself and its metadata.
    if (objects := max(certain, outside_strings.count(b"{"))) > limits.tensors + 2:
        rule = f"the limit is {limits.tensors}"
        raise BadFile(
            "too-many-tensors", f"the header holds {objects} JSON objects, one per tensor; {rule}", where=where
        )
    # A tensor takes three fields, up to `dimensions` sizes and two offsets.
    if (values := outside_strings.count(b",")) > limits.tensors * (limits.dimensions + 5):
        raise BadFile(
            "header-invalid", f"the header holds {values} values, more than its tensors can need", where=where
        )


def _unescaped(header: bytes) -> bytes:
    return header.replace(rb"\\", b"").replace(rb"\"", b"")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, _Pairs):
        raise BadFile(
            "header-invalid", f"__metadata__ is {type(value).__name__}; a JSON object is expected", where=where
        )
    found: dict[str, str] = {}
    for key, text in value:
        if key in found:
            raise BadFile("header-invalid", f"__metadata__ has the key {key[:80]!r} twice", where=where)
        if not isinstance(text, str) or not _encodes(key) or not _encodes(text):
            raise BadFile(
                "header-invalid", f"__metadata__ entry {key[:80]!r} is not text; texts are expected", where=where
            )
        found[key] = text
    return found


def _encodes(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _entry(name: str, value: object, *, start: int, limits: ReadLimits, where: str) -> TensorEntry:
    if not name.isprintable() or not name or len(name.encode("utf-8", "replace")) > limits.name_bytes:
        rule = f"1 to {limits.name_bytes} printable bytes are expected"
        raise BadFile("bad-name", f"a tensor is called {name[:80]!r} ({len(name)} characters); {rule}", where=where)
    fields = dict(value) if isinstance(value, _Pairs) else {}
    if not isinstance(value, _Pairs) or len(value) != 3 or fields.keys() != {"dtype", "shape", "data_offsets"}:
        rule = "exactly dtype, shape and data_offsets are expected"
        raise BadFile("header-invalid", f"tensor {name!r} is described by {sorted(fields)}; {rule}", where=where)
    dtype, shape = fields["dtype"], _shape(name, fields["shape"], limits, where)
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        rule = f"one of {', '.join(ELEMENT_BYTES)} is expected"
        raise BadFile("bad-dtype", f"tensor {name!r} has element type {str(dtype)[:40]!r}; {rule}", where=where)
    span = fields["data_offsets"]
    if not isinstance(span, list) or len(span) != 2 or not all(_is_count(offset) for offset in span):
        raise BadFile(
            "bad-span", f"tensor {name!r} has data_offsets {str(span)[:80]}; two offsets are expected", where=where
        )
    size, needed = span[1] - span[0], prod(shape) * ELEMENT_BYTES[dtype]
    if size != needed:
        rule = f"its shape {list(shape)} in {dtype} takes {needed}"
        raise BadFile("bad-span", f"tensor {name!r} claims {size} bytes; {rule}", where=where)
    return TensorEntry(name, dtype, shape, start + span[0], start + span[1])


def _shape(name: str, value: object, limits: ReadLimits, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > limits.dimensions or not all(_is_count(size) for size in value):
        rule = f"at most {limits.dimensions} whole numbers are expected"
        raise BadFile("bad-shape", f"tensor {name!r} has shape {str(value)[:80]}; {rule}", where=where)
    if 0 in value:
        raise BadFile(
            "bad-shape", f"tensor {name!r} has shape {value}, with no elements; it cannot be a weight", where=where
        )
    return tuple(value)


def _is_count(value: object) -> bool:
    # bool is a subclass of int, and `true` is no size.
    return type(value) is int and 0 <= value < 2**63


def _tiled(entries: dict[str, TensorEntry], *, start: int, body_bytes: int, where: str) -> dict[str, TensorEntry]:
    """The entries in the order of their bytes. Raises BadFile unless they tile the body without hole or overlap."""
    ordered = sorted(entries.values(), key=lambda entry: (entry.begin, entry.end))
    position = start
    for entry in ordered:
        if entry.begin != position:
            kind = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            rule = f"it starts at byte {entry.begin}, {position} is expected"
            raise BadFile("bad-span", f"tensor {entry.name!r} {kind}: {rule}", where=where)
        position = entry.end
    end = start + body_bytes
    if position > end:
        rule = f"the file ends at byte {end}; download it again"
        raise BadFile("truncated", f"the last tensor ends at byte {position}, {rule}", where=where)
    if position < end:
        raise BadFile(
            "trailing-bytes", f"{end - position} bytes follow the last tensor; none are expected", where=where
        )
    return {entry.name: entry for entry in ordered}
