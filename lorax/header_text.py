"""The JSON text of a safetensors header, read in one walk that ends at the first thing that is not as expected.

Nothing is parsed before it is known to be of the expected form, and the descriptions of tensors are taken apart by one
regular expression, so that no header takes much more memory than its own bytes, or more time than a plain one of its
size. The standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from lorax.errors import BadFile

FIELDS = ("dtype", "shape", "data_offsets")
"""What describes a tensor, in the order in which it is written by most."""
Row = tuple[str, str, str, str, str, str, str]
"""One tensor as it is spelled: name, dtype, shape with its brackets, begin, end, what follows if that is no comma."""

_BLANK = r"[ \t\n\r]*+"
_COUNT = r"(?:0|[1-9][0-9]{0,18}+)"
_SIZE = rf"[1-9][0-9]{{0,18}}+{_BLANK}"
_VALUES = (
    r'"([A-Z0-9_]{1,40}+)"',
    rf"(\[{_BLANK}(?:{_SIZE}(?:,{_BLANK}{_SIZE}){{0,63}}+)?+\])",
    rf"\[{_BLANK}({_COUNT}){_BLANK},{_BLANK}({_COUNT}){_BLANK}\]",
)
_FIELD = "|".join(rf'"{field}"{_BLANK}:{_BLANK}{value}' for field, value in zip(FIELDS, _VALUES, strict=True))
# The fields may come in any order. One that comes twice leaves another one out, whose group then is empty.
_DESCRIPTION = rf"\{{(?:{_BLANK}(?:{_FIELD}){_BLANK}(?:,(?!\}})|(?=\}}))){{3}}\}}"
# Any character of a JSON string that stands for itself; as ranges, for a set that leaves some out is slower.
_PLAIN = r"[\x20\x21\x23-\x5b\x5d-\xff]"
# Longer names are read, and refused, one by one: this loop is slow where there are millions of escapes.
_NAME = rf'"({_PLAIN}{{0,4000}}+(?:\\.{_PLAIN}{{0,4000}}+){{0,4000}}+)"'
# A tensor and the comma behind it, or the closing brace and the rest of the text, or whatever else the rest is.
_ROW = re.compile(rf"{_BLANK}{_NAME}{_BLANK}:{_BLANK}{_DESCRIPTION}{_BLANK}(?:,|(\}}(?s:.*+)))|((?s:.++))")
_KEY = {sign: re.compile(rf'{_BLANK}{sign}{_BLANK}(?=")') for sign in "{,"}
_CLOSING = {"{": re.compile(rf"{_BLANK}\{{{_BLANK}\}}"), ",": re.compile(rf"{_BLANK}\}}")}
_QUOTE = re.compile(rf'{_BLANK}(?=")')
_COLON = re.compile(rf"{_BLANK}:{_BLANK}")
_COMMA = re.compile(rf"{_BLANK},")
_NEXT = re.compile(rf"{_BLANK}[,}}]")
_BRACE = re.compile(rf"{_BLANK}\}}")
_PLAIN_TEXT = re.compile(rf'"({_PLAIN}*+)"')
_LONGEST_VALUE = 2**19
"""Bytes that are looked at, at most, to tell what is wrong with one value."""


class Pairs(list[tuple[str, object]]):
    """A JSON object as it was written, repeated keys included."""


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=Pairs, parse_constant=_no_constant)


class HeaderText:
    """Goes through the text of a header once, from its first byte to its last.

    longest_texts: bytes that texts may take, those of plain ASCII not counted; most_entries: of the metadata.
    """

    __slots__ = ("_decoded", "_longest_texts", "_most_entries", "_position", "_text", "_where", "metadata", "rows")

    def __init__(self, header: bytes, *, longest_texts: int, most_entries: int, where: str) -> None:
        # One character for each byte, whatever it stands for: names and texts are decoded one by one.
        self._text = header.decode("latin-1")
        self._position = 0
        self._decoded = 0
        self._longest_texts = longest_texts
        self._most_entries = most_entries
        self._where = where
        self.rows: list[Row] = []
        self.metadata: dict[str, str] | None = None

    def read(self) -> str | None:
        """Reads rows and metadata. Gives the name of the first tensor that is not described as expected, if any."""
        if not self._text.startswith("{"):
            raise self.fault("header-invalid", f"it starts with {self._text[:8]!r}; a JSON object is expected")
        if self._passes(_CLOSING["{"]):
            self._end()
            return None
        self._position = 1
        while not self._take_rows():
            self._pass(_QUOTE, "a name")
            name = self.text_here()
            self._pass(_COLON, "a colon")
            if name != "__metadata__":
                return name
            self._take_metadata()
            if not self._passes(_COMMA):
                self._pass(_BRACE, "a comma or a closing brace")
                break
        self._end()
        return None

    def _take_rows(self) -> bool:
        """Takes all tensors that follow each other from here on; whether a closing brace comes after them."""
        found = _ROW.findall(self._text, self._position)
        last = found[-1] if found else ("",) * 7
        self._position = len(self._text) - len(last[5] or last[6])
        if last[6]:
            found.pop()
        self.rows += found
        return self._passes(_BRACE) if last[5] else False

    def _take_metadata(self) -> None:
        if self.metadata is not None:
            raise self.fault("header-invalid", "it has two __metadata__ objects; one is expected")
        self.metadata = {}
        if not self._text.startswith("{", self._position):
            self.refuse_value("__metadata__", "a JSON object")
        for key in self._keys():
            if key in self.metadata:
                raise self.fault("header-invalid", f"__metadata__ has the key {key[:80]!r} twice")
            if len(self.metadata) == self._most_entries:
                raise self.fault("header-invalid", f"__metadata__ has more entries than the limit {self._most_entries}")
            if not self._text.startswith('"', self._position):
                self.refuse_value(f"__metadata__ entry {key[:80]!r}", "a text")
            self.metadata[key] = value = self.text_here()
            if not (_encodes(key) and _encodes(value)):
                message = f"__metadata__ entry {key[:80]!r} has half of a surrogate pair; a whole one is expected"
                raise self.fault("header-invalid", message)

    def _keys(self) -> Iterator[str]:
        """Gives the keys of the object that starts here. Each value has to be read before the next key is asked for."""
        sign = "{"
        while self._passes(_KEY[sign]):
            key = self.text_here()
            self._pass(_COLON, "a colon")
            yield key
            sign = ","
        self._pass(_CLOSING[sign], "a comma and a name, or a closing brace,")

    def _end(self) -> None:
        padding = self._text[self._position :].strip(" ")
        if padding.strip(" \t\n\r"):
            self._refuse_json(f"{padding[:16]!r} follows the closing brace")
        if padding:
            raise self.fault("header-invalid", "it is padded with something else than spaces")

    def names(self, raw: Sequence[str], *, longest: int) -> list[str]:
        """Decodes the names of rows; those that are far too long are left as they are."""
        return [
            name if (name.isascii() and "\\" not in name) or len(name) > 6 * longest else self._name(name)
            for name in raw
        ]

    def _name(self, raw: str) -> str:
        try:
            return str(_JSON.raw_decode(f'"{self._utf8(self._counted(raw))}"')[0])
        except ValueError as error:
            self._refuse_json(str(error))

    def text_here(self) -> str:
        """Reads the JSON string that starts here, and counts what it may take before it is decoded."""
        plain = _PLAIN_TEXT.match(self._text, self._position)
        if plain is not None:
            self._position = plain.end()
            return plain[1] if plain[1].isascii() else self._utf8(self._counted(plain[1]))
        try:
            found, end = _JSON.raw_decode(self._text, self._position)
            written = self._counted(self._text[self._position : end])
            if not written.isascii():
                found = None  # two such texts at once could be large
                found, _ = _JSON.raw_decode(self._utf8(written))
        except ValueError as error:
            self._refuse_json(str(error))
        self._position = end
        return str(found)

    def value_here(self, what: str) -> object:
        """Gives the JSON value that starts here, for a message that tells what is wrong with it.

        Raises BadFile when it is no value, or one that neither a comma nor a brace follows.
        """
        window = self._text[self._position : self._position + _LONGEST_VALUE]
        try:
            found, length = _JSON.raw_decode(window)
        except (ValueError, RecursionError) as error:
            if self._position + _LONGEST_VALUE < len(self._text):
                message = f"{what} is no JSON, or longer than {_LONGEST_VALUE} bytes"
                raise self.fault("header-invalid", message) from None
            self._refuse_json(str(error))
        self._position += length
        self._pass(_NEXT, "a comma or a closing brace")
        return found

    def refuse_value(self, what: str, expected: str) -> NoReturn:
        """Raises BadFile for a value that is of another kind than expected, or no JSON."""
        kind = type(self.value_here(what)).__name__
        raise self.fault("header-invalid", f"{what} is {kind}; {expected} is expected")

    def fault(self, reason: str, message: str) -> BadFile:
        """Gives the refusal of this header."""
        return BadFile(reason, f"the header is not as expected: {message}", where=self._where)

    def _counted(self, written: str) -> str:
        # A single wide character makes Python spend four bytes on every other one.
        self._decoded += 4 * len(written)
        if self._decoded > self._longest_texts:
            message = f"its texts may take {self._decoded} bytes once decoded; the limit is {self._longest_texts}"
            raise self.fault("header-too-large", message)
        return written

    def _utf8(self, raw: str) -> str:
        try:
            return raw.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            self._refuse_json(str(error))

    def _passes(self, pattern: re.Pattern[str]) -> bool:
        """Goes over the pattern if it is there; whether it was."""
        found = pattern.match(self._text, self._position)
        if found is not None:
            self._position = found.end()
        return found is not None

    def _pass(self, pattern: re.Pattern[str], expected: str) -> None:
        if not self._passes(pattern):
            self._refuse_json(f"{expected} is expected before {self._text[self._position :][:16]!r}")

    def _refuse_json(self, seen: str) -> NoReturn:
        message = f"the header is not JSON in UTF-8, near byte {8 + self._position}: {seen}"
        raise BadFile("header-not-json", message, where=self._where)


def _encodes(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
