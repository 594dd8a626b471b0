"""The header of a safetensors file, checked far more strictly than the format's own reader does.

A header is believed only when every name is printable and unique, every shape and element type is possible, and the
byte ranges tile the rest of the file exactly. What passes here is accepted by safetensors too, with equal names, shapes
and bytes. Pure functions over bytes; the standard library only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from lorax.errors import BadFile
from lorax.header_text import FIELDS, HeaderText, Pairs

ELEMENT_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of one element by safetensors' name of the element type."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds what one file may cost, whatever its header claims.

    header_bytes: the largest real header seen is 0.25 MB, a thumbnail may add some MB;
    tensors: an adapter of a mixture of 128 experts has 37,000; metadata_entries: trainers write about 100;
    name_bytes: of a tensor; rank: of one update;
    rank_to_width: rank of an update over the wider side of the weight it patches;
    config_bytes: of the JSON file beside the weights.
    """

    header_bytes: int = 8 * 2**20
    tensors: int = 40_000
    metadata_entries: int = 10_000
    dimensions: int = 5
    name_bytes: int = 512
    rank: int = 4096
    rank_to_width: float = 4.0
    config_bytes: int = 2**20


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Tells where one tensor lies: begin and end are offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(
    header: bytes, *, body_bytes: int, limits: ReadLimits, where: str
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Gives the tensors by name, in the order of their bytes, and the metadata. Raises BadFile.

    header: the JSON bytes without the length before them; body_bytes: how many bytes follow the header.
    """
    if header.count(b'"data_offsets"') > limits.tensors:
        message = f"the header lists more tensors than the limit of {limits.tensors}"
        raise BadFile("too-many-tensors", message, where=where)
    text = HeaderText(header, longest_texts=2 * limits.header_bytes, most_entries=limits.metadata_entries, where=where)
    odd = text.read()
    if odd is not None:
        _check_names([odd], limits, where)
        raise _fault(odd, text.value_here(f"the description of tensor {odd!r}"), limits, where)
    # Whole columns are checked at a time, with a closer look only where one is wrong: that takes half the time.
    raw, dtypes, shapes, begins, ends, _, _ = zip(*text.rows, strict=True) if text.rows else ((),) * 7
    text.rows.clear()
    names = text.names(raw, longest=limits.name_bytes)
    _check_names(names, limits, where)
    sizes, needed = _sizes(names, dtypes, shapes, limits, where)
    first, last = _offsets(names, begins, ends, needed, where)
    order = _tiled(names, first, last, body_bytes=body_bytes, where=where)
    start = 8 + len(header)
    entries = {names[i]: TensorEntry(names[i], dtypes[i], sizes[i], start + first[i], start + last[i]) for i in order}
    return entries, text.metadata or {}


def _check_names(names: Sequence[str], limits: ReadLimits, where: str) -> None:
    together = "".join(names)
    if not (all(names) and together.isprintable() and _longest(names, together) <= limits.name_bytes):
        wrong = (name for name in names if not name or not name.isprintable() or _longest([name]) > limits.name_bytes)
        name = next(wrong)
        rule = f"1 to {limits.name_bytes} printable bytes are expected"
        message = f"a tensor is called {name[:80]!r} ({len(name)} characters); {rule}"
        raise BadFile("bad-name", message, where=where)
    if len(set(names)) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise BadFile("duplicate-tensor", f"tensor {name!r} is listed twice; names have to be unique", where=where)
    if "__metadata__" in names:
        raise BadFile("header-invalid", "__metadata__ is described as a tensor; texts are expected", where=where)


def _longest(names: Sequence[str], together: str = "\u00e9") -> int:
    """The bytes of the longest name in UTF-8; together: all names, which are quickly measured if they are ASCII."""
    return max(map(len, names if together.isascii() else (name.encode("utf-8") for name in names)), default=0)


def _sizes(
    names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[str], limits: ReadLimits, where: str
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The shape of each tensor, and its bytes. Raises BadFile for an unknown type, or more dimensions than are read."""
    if "" in dtypes or "" in shapes:
        index = dtypes.index("") if "" in dtypes else shapes.index("")
        raise _misdescribed(names[index], ("one of the fields twice",), where)
    # Most tensors share a few shapes.
    unique = dict.fromkeys(shapes)
    parsed: dict[str, tuple[int, ...]] = dict(zip(unique, map(tuple, json.loads(f"[{','.join(unique)}]")), strict=True))
    found = [parsed[shape] for shape in shapes]
    if max(map(len, parsed.values()), default=0) > limits.dimensions or not ELEMENT_BYTES.keys() >= set(dtypes):
        for name, dtype, sizes in zip(names, dtypes, found, strict=True):
            if len(sizes) > limits.dimensions or dtype not in ELEMENT_BYTES:
                described = Pairs(zip(FIELDS, (dtype, list(sizes), [0, 0]), strict=True))
                raise _fault(name, described, limits, where)
    return found, [prod(sizes) * ELEMENT_BYTES[dtype] for sizes, dtype in zip(found, dtypes, strict=True)]


def _offsets(
    names: Sequence[str], begins: Sequence[str], ends: Sequence[str], needed: list[int], where: str
) -> tuple[list[int], list[int]]:
    """Begins and ends of the tensors in the body. Raises BadFile when they are not as far apart as they have to be."""
    if "" in begins:
        raise _misdescribed(names[begins.index("")], ("one of the fields twice",), where)
    first, last = list(map(int, begins)), list(map(int, ends))
    found = [end - begin for begin, end in zip(first, last, strict=True)]
    if found != needed:
        index = next(index for index, size in enumerate(found) if size != needed[index])
        message = f"tensor {names[index]!r} claims {found[index]} bytes; its shape and type take {needed[index]}"
        raise BadFile("bad-span", message, where=where)
    return first, last


def _tiled(
    names: Sequence[str], begins: Sequence[int], ends: Sequence[int], *, body_bytes: int, where: str
) -> Sequence[int]:
    """The order of the tensors' bytes. Raises BadFile unless they tile the body without hole or overlap."""
    order = sorted(range(len(begins)), key=begins.__getitem__)
    position = 0
    for index in order:
        if (begin := begins[index]) != position:
            kind = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            rule = f"it starts at byte {begin} of the body, {position} is expected"
            raise BadFile("bad-span", f"tensor {names[index]!r} {kind}: {rule}", where=where)
        position = ends[index]
    if position > body_bytes:
        rule = f"which has {body_bytes}; download the file again"
        raise BadFile("truncated", f"the last tensor ends at byte {position} of the body, {rule}", where=where)
    if position < body_bytes:
        message = f"{body_bytes - position} bytes follow the last tensor; none are expected"
        raise BadFile("trailing-bytes", message, where=where)
    return order


def _fault(name: str, value: object, limits: ReadLimits, where: str) -> BadFile:
    """Words what is wrong with the description of one tensor."""
    fields = dict(value) if isinstance(value, Pairs) else {}
    if not isinstance(value, Pairs) or len(value) != len(FIELDS) or fields.keys() != set(FIELDS):
        return _misdescribed(name, sorted(fields) if fields else [type(value).__name__], where)
    dtype, shape, span = (fields[field] for field in FIELDS)
    if not isinstance(shape, list) or len(shape) > limits.dimensions or not all(map(_is_count, shape)):
        rule = f"at most {limits.dimensions} whole numbers are expected"
        return BadFile("bad-shape", f"tensor {name!r} has shape {_shown(shape)}; {rule}", where=where)
    if 0 in shape:
        message = f"tensor {name!r} has shape {shape}, with no elements; it cannot be a weight"
        return BadFile("bad-shape", message, where=where)
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        rule = f"one of {', '.join(ELEMENT_BYTES)} is expected"
        return BadFile("bad-dtype", f"tensor {name!r} has element type {_shown(dtype)}; {rule}", where=where)
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)):
        message = f"tensor {name!r} has data_offsets {_shown(span)}; two offsets are expected"
        return BadFile("bad-span", message, where=where)
    return _misdescribed(name, ("escapes",), where)


def _misdescribed(name: str, seen: Sequence[str], where: str) -> BadFile:
    rule = f"exactly {', '.join(FIELDS)}, spelt plainly, are expected"
    message = f"tensor {name!r} is described by {', '.join(seen)[:200]!r}; {rule}"
    return BadFile("header-invalid", message, where=where)


def _shown(value: object) -> str:
    # repr() escapes what would move a terminal's cursor or could not be written down at all.
    return repr(value)[:80]


def _is_count(value: object) -> bool:
    # bool is a subclass of int, and `true` is no size.
    return type(value) is int and 0 <= value < 2**63
