"""The header of a safetensors file, checked far more strictly than the format's own reader does.

A header is believed only when every name is printable and unique, every shape and element type is possible, and the
byte ranges tile the rest of the file exactly. What passes here is accepted by safetensors too, with equal names, shapes
and bytes. Pure functions over bytes; the standard library only.

A header is read in one walk that ends at the first fault. Nothing is parsed before it is known to be of the expected
form, so no header costs much more memory than its own bytes, or more time than a plain one of its size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from operator import attrgetter
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

    header_bytes: the largest real header seen is 0.25 MB, a thumbnail may add some MB; tensors: as many metadata
    entries are read, too; rank: of one update;
    rank_to_width: rank of an update over the wider side of the weight it patches;
    config_bytes: of the JSON file beside the weights.
    """

    header_bytes: int = 8 * 2**20
    tensors: int = 20_000
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


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it was written, repeated keys included."""


def parse_header(
    header: bytes, *, body_bytes: int, limits: ReadLimits, where: str
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Gives the tensors by name, in the order of their bytes, and the metadata. Raises BadFile.

    header: the JSON bytes without the length before them; body_bytes: how many bytes follow the header.
    """
    if not header.startswith(b"{"):
        raise BadFile(
            "header-invalid", f"the header starts with {header[:8]!r}; a JSON object is expected", where=where
        )
    walk = _Walk(header, limits, where)
    metadata: dict[str, str] | None = None
    entries: dict[str, TensorEntry] = {}
    for name in walk.keys_here():
        if name == "__metadata__":
            if metadata is not None:
                raise BadFile("header-invalid", "the header has two __metadata__ objects; one is expected", where=where)
            metadata = walk.metadata()
        elif name in entries:
            raise BadFile("duplicate-tensor", f"tensor {name!r} is listed twice; names have to be unique", where=where)
        elif len(entries) == limits.tensors:
            raise BadFile(
                "too-many-tensors", f"the header lists more tensors than the limit of {limits.tensors}", where=where
            )
        else:
            entries[name] = walk.entry(name)
    walk.end()
    return _tiled(entries, start=8 + len(header), body_bytes=body_bytes, where=where), metadata or {}


_BLANK = r"[ \t\n\r]*+"
_COUNT = r"(?:0|[1-9][0-9]{0,18}+)"
_SIZE = rf"[1-9][0-9]{{0,18}}+{_BLANK}"
_VALUES = {
    "dtype": r'"([A-Z0-9_]{1,40}+)"',
    "shape": rf"\[{_BLANK}((?:{_SIZE}(?:,{_BLANK}{_SIZE}){{0,63}}+)?+)\]",
    "data_offsets": rf"\[{_BLANK}({_COUNT}){_BLANK},{_BLANK}({_COUNT}){_BLANK}\]",
}
_FIELD = "|".join(rf'"{field}"{_BLANK}:{_BLANK}{value}' for field, value in _VALUES.items())
# The fields may come in any order. One that comes twice leaves another one out, whose group then is empty.
_DESCRIPTION = re.compile(rf"\{{(?:{_BLANK}(?:{_FIELD}){_BLANK}(?:,(?!\}})|(?=\}}))){{3}}\}}")
# Any character of a JSON string that stands for itself; as ranges, for a set that leaves some out is slower.
_PLAIN = r"[\x20\x21\x23-\x5b\x5d-\xff]"
_PLAIN_KEY = {sign: re.compile(rf'{_BLANK}{sign}{_BLANK}"({_PLAIN}{{0,512}}+)"{_BLANK}:{_BLANK}') for sign in "{,"}
_OTHER_KEY = {sign: re.compile(rf'{_BLANK}{sign}{_BLANK}(?=")') for sign in "{,"}
_CLOSING = {"{": re.compile(rf"{_BLANK}\{{{_BLANK}\}}"), ",": re.compile(rf"{_BLANK}\}}")}
_COLON = re.compile(rf"{_BLANK}:{_BLANK}")
_PLAIN_TEXT = re.compile(rf'"({_PLAIN}*+)"')
_LONGEST_VALUE = 2**19
"""Bytes that are looked at, at most, to tell what is wrong with one value."""


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)


class _Walk:
    """Goes through a header once, from its first byte to its last.

    text: one character for each byte, whatever it stands for: names and texts are decoded one by one.
    position: of the next character to be read; decoded: bytes that texts may have taken so far, beyond plain ones.
    kinds: shape and bytes of each element type and shape as they are written, for most tensors share a few.
    """

    __slots__ = ("decoded", "kinds", "limits", "position", "text", "where")

    def __init__(self, header: bytes, limits: ReadLimits, where: str) -> None:
        self.text = header.decode("latin-1")
        self.limits = limits
        self.where = where
        self.position = 0
        self.decoded = 0
        self.kinds: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {}

    def keys_here(self) -> Iterator[str]:
        """Gives the keys of the object that starts here. Each value has to be read before the next key is asked for."""
        sign = "{"
        while (key := self._key(sign)) is not None:
            yield key
            sign = ","
        self._pass(_CLOSING[sign], "a comma and a name, or a closing brace,")

    def metadata(self) -> dict[str, str]:
        """Reads the object of texts that starts here."""
        if not self.text.startswith("{", self.position):
            self._refuse_value("__metadata__", "a JSON object")
        found: dict[str, str] = {}
        for key in self.keys_here():
            shown = repr(key[:80])
            if key in found:
                raise BadFile("header-invalid", f"__metadata__ has the key {shown} twice", where=self.where)
            if len(found) == self.limits.tensors:
                rule = f"the limit is {self.limits.tensors}"
                raise BadFile(
                    "header-invalid", f"__metadata__ has more entries than are read: {rule}", where=self.where
                )
            if not self.text.startswith('"', self.position):
                self._refuse_value(f"__metadata__ entry {shown}", "a text")
            found[key] = self._text()
            if not _encodes(key) or not _encodes(found[key]):
                message = f"__metadata__ entry {shown} has half of a surrogate pair; whole characters are expected"
                raise BadFile("header-invalid", message, where=self.where)
        return found

    def entry(self, name: str) -> TensorEntry:
        """Reads the description of a tensor that starts here."""
        if not name or not name.isprintable() or _utf8_bytes(name) > self.limits.name_bytes:
            rule = f"1 to {self.limits.name_bytes} printable bytes are expected"
            message = f"a tensor is called {name[:80]!r} ({len(name)} characters); {rule}"
            raise BadFile("bad-name", message, where=self.where)
        found = _DESCRIPTION.match(self.text, self.position)
        dtype, sizes, begin, end = found.groups() if found else (None, None, None, None)
        if found is None or dtype is None or sizes is None or begin is None or end is None:
            self._refuse_description(name)
        if (dtype, sizes) not in self.kinds:
            shape = tuple(map(int, sizes.split(","))) if sizes else ()
            if len(shape) > self.limits.dimensions or dtype not in ELEMENT_BYTES:
                self._refuse_description(name)
            self.kinds[dtype, sizes] = shape, prod(shape) * ELEMENT_BYTES[dtype]
        shape, needed = self.kinds[dtype, sizes]
        if (size := int(end) - int(begin)) != needed:
            rule = f"its shape {list(shape)} in {dtype} takes {needed}"
            raise BadFile("bad-span", f"tensor {name!r} claims {size} bytes; {rule}", where=self.where)
        self.position = found.end()
        start = 8 + len(self.text)
        return TensorEntry(name, dtype, shape, start + int(begin), start + int(end))

    def end(self) -> None:
        """Goes over the padding."""
        padding = self.text[self.position :].strip(" ")
        if padding.strip(" \t\n\r"):
            self._refuse_json(f"{padding[:16]!r} follows the closing brace")
        if padding:
            message = "the header is padded with something else than spaces"
            raise BadFile("header-invalid", message, where=self.where)

    def _key(self, sign: str) -> str | None:
        """The next key of an object, None when there is no other; sign: what has to come before it."""
        plain = _PLAIN_KEY[sign].match(self.text, self.position)
        if plain is not None:
            self.position = plain.end()
            return plain[1] if plain[1].isascii() else self._utf8(plain[1])
        other = _OTHER_KEY[sign].match(self.text, self.position)
        if other is None:
            return None
        self.position = other.end()
        key = self._text()
        self._pass(_COLON, "a colon")
        return key

    def _text(self) -> str:
        """Reads the JSON string that starts here, and counts what it may take before it is decoded."""
        plain = _PLAIN_TEXT.match(self.text, self.position)
        if plain is not None:
            self.position = plain.end()
            return plain[1] if plain[1].isascii() else self._utf8(self._counted(plain[1]))
        try:
            found, end = _JSON.raw_decode(self.text, self.position)
            written = self._counted(self.text[self.position : end])
            if not written.isascii():
                found = None  # two such texts at once could be large
                found, _ = _JSON.raw_decode(self._utf8(written))
        except ValueError as error:
            self._refuse_json(str(error))
        self.position = end
        return str(found)

    def _counted(self, written: str) -> str:
        # A single wide character makes Python spend four bytes on every other one.
        self.decoded += 4 * len(written)
        if self.decoded > (limit := 2 * self.limits.header_bytes):
            message = (
                f"the texts of the header may take {self.decoded} bytes once they are decoded; the limit is {limit}"
            )
            raise BadFile("header-too-large", message, where=self.where)
        return written

    def _utf8(self, raw: str) -> str:
        try:
            return raw.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            self._refuse_json(str(error))

    def _pass(self, pattern: re.Pattern[str], expected: str) -> None:
        found = pattern.match(self.text, self.position)
        if found is None:
            self._refuse_json(f"{expected} is expected before {self.text[self.position :][:16]!r}")
        self.position = found.end()

    def _refuse_json(self, seen: str) -> NoReturn:
        message = f"the header is not JSON in UTF-8, near byte {8 + self.position}: {seen}"
        raise BadFile("header-not-json", message, where=self.where)

    def _value(self, what: str) -> object:
        """The JSON value that starts here, for a message that tells what is wrong with it."""
        window = self.text[self.position : self.position + _LONGEST_VALUE]
        try:
            return _JSON.raw_decode(window)[0]
        except (ValueError, RecursionError) as error:
            if self.position + _LONGEST_VALUE < len(self.text):
                message = f"{what} is no JSON, or longer than {_LONGEST_VALUE} bytes"
                raise BadFile("header-invalid", message, where=self.where) from None
            self._refuse_json(str(error))

    def _refuse_value(self, what: str, expected: str) -> NoReturn:
        kind = type(self._value(what)).__name__.removeprefix("_")
        raise BadFile("header-invalid", f"{what} is {kind}; {expected} is expected", where=self.where)

    def _refuse_description(self, name: str) -> NoReturn:
        value = self._value(f"the description of tensor {name!r}")
        fields = dict(value) if isinstance(value, _Pairs) else {}
        if not isinstance(value, _Pairs) or len(value) != 3 or fields.keys() != _VALUES.keys():
            rule = "exactly dtype, shape and data_offsets are expected"
            message = f"tensor {name!r} is described by {str(sorted(fields))[:200]}; {rule}"
            raise BadFile("header-invalid", message, where=self.where)
        raise _fault(name, fields, self.limits, self.where)


def _fault(name: str, fields: Mapping[str, object], limits: ReadLimits, where: str) -> BadFile:
    """Words what is wrong with one of the three fields of a tensor."""
    dtype, shape, span = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(shape, list) or len(shape) > limits.dimensions or not all(map(_is_count, shape)):
        rule = f"at most {limits.dimensions} whole numbers are expected"
        return BadFile("bad-shape", f"tensor {name!r} has shape {str(shape)[:80]}; {rule}", where=where)
    if 0 in shape:
        message = f"tensor {name!r} has shape {shape}, with no elements; it cannot be a weight"
        return BadFile("bad-shape", message, where=where)
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        rule = f"one of {', '.join(ELEMENT_BYTES)} is expected"
        return BadFile("bad-dtype", f"tensor {name!r} has element type {str(dtype)[:40]!r}; {rule}", where=where)
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)):
        message = f"tensor {name!r} has data_offsets {str(span)[:80]}; two offsets are expected"
        return BadFile("bad-span", message, where=where)
    message = f"tensor {name!r} is described with escapes; plain dtype, shape and data_offsets are expected"
    return BadFile("header-invalid", message, where=where)


def _is_count(value: object) -> bool:
    # bool is a subclass of int, and `true` is no size.
    return type(value) is int and 0 <= value < 2**63


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _encodes(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _tiled(entries: dict[str, TensorEntry], *, start: int, body_bytes: int, where: str) -> dict[str, TensorEntry]:
    """The entries in the order of their bytes. Raises BadFile unless they tile the body without hole or overlap."""
    ordered = sorted(entries.values(), key=attrgetter("begin"))
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
