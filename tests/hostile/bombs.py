"""Makes weight files whose headers are as large as a header may be, and meant to cost far more than their bytes."""

from __future__ import annotations

from tests.hostile.makers import Hostile, of, raw

HEADER = 8 * 2**20
"""The largest header that is read."""
TENSORS = 40_000
"""The most tensors that are read."""


def _rows(count: int, *, key: str = "data_offsets") -> str:
    row = '"{0}":{{"dtype":"U8","shape":[1],"' + key + '":[{0},{1}]}}'
    return ",".join(row.format(index, index + 1) for index in range(count))


def _text(text: str) -> bytes:
    return of(f'{{"__metadata__":{{"x":"{text}"}}}}'.encode(), 1)


def _one_description(value: str) -> bytes:
    return of(f'{{"a":{value}}}'.encode(), 1)


def _metadata(entry: str, count: int) -> bytes:
    return of(('{"__metadata__":{' + ",".join(entry.format(index) for index in range(count)) + "}}").encode(), 1)


def _behind_escapes() -> bytes:
    return raw(("{" + _rows(99_000, key="data\\u005foffsets") + "}").encode())


def _hole_at_the_end() -> bytes:
    last = f'"z":{{"dtype":"U8","shape":[1],"data_offsets":[{TENSORS},{TENSORS + 1}]}}'
    return of(f"{{{_rows(TENSORS - 1)},{last}}}".encode(), TENSORS + 1)


def _shapes_of_many_kinds() -> bytes:
    """As many tensors as may be, no two of the same shape, in the order that is slowest, and nothing behind them."""
    row = '"{0:060}":{{"data_offsets":[{1},{2}],"shape":[{3}, 1, 1, 1, 1],"dtype":"U8"}}'
    ends = [index * (index + 1) // 2 for index in range(TENSORS + 1)]
    rows = (row.format(index, ends[index], ends[index + 1], index + 1) for index in range(TENSORS))
    return of(f"{{{','.join(rows)}}}".encode(), 0)


def bombs() -> list[Hostile]:
    """Returns them. Parsed as JSON, each would take hundreds of megabytes, or seconds, or both."""
    full = HEADER - 100
    return [
        Hostile(
            "a hundred and forty thousand tensors", lambda: raw(f"{{{_rows(120_000)}}}".encode()), "too-many-tensors"
        ),
        Hostile(
            "one tensor too many", lambda: of(f"{{{_rows(TENSORS + 1)}}}".encode(), TENSORS + 1), "too-many-tensors"
        ),
        Hostile("tensors behind escapes", _behind_escapes, "header-invalid"),
        Hostile("forty thousand tensors, a hole before the last", _hole_at_the_end, "bad-span"),
        Hostile("forty thousand shapes and no body", _shapes_of_many_kinds, "truncated"),
        Hostile(
            "two million sizes",
            lambda: _one_description('{"dtype":"U8","shape":[' + "1," * 2_000_000 + "1]}"),
            "header-invalid",
        ),
        Hostile("two million lists", lambda: _one_description("[" + "[]," * 2_000_000 + "[]]"), "header-invalid"),
        Hostile("two million objects", lambda: _one_description("[" + "{}," * 2_000_000 + "{}]"), "header-invalid"),
        Hostile(
            "as many lists as are looked at", lambda: _one_description("[" + "[]," * 174_000 + "[]]"), "header-invalid"
        ),
        Hostile(
            "as many objects as are looked at",
            lambda: _one_description("[" + "{}," * 174_000 + "{}]"),
            "header-invalid",
        ),
        Hostile("four million open lists", lambda: _one_description("[" * 4_000_000), "header-invalid"),
        Hostile("eight million braces", lambda: of(b"{" * full), "header-not-json"),
        Hostile("two million names without a value", lambda: of(b"{" + b'"":' * 2_000_000 + b"}"), "bad-name"),
        Hostile("two million texts", lambda: of(b"{" + b'""' * 4_000_000 + b"}"), "header-not-json"),
        Hostile("a number of eight million digits", lambda: _one_description("1" * full), "header-invalid"),
        Hostile("eight million spaces before a value", lambda: _one_description(" " * full), "header-not-json"),
        Hostile("eight million spaces behind nothing", lambda: of(b"{}" + b" " * full, 1), "trailing-bytes"),
        Hostile("a name of eight megabytes", lambda: of(b'{"' + b"a" * full + b'":1}'), "bad-name"),
        Hostile("a name without end", lambda: of(b'{"' + b"a" * full), "header-not-json"),
        Hostile("a text without end", lambda: of(b'{"' + b'\\"' * (full // 2)), "header-not-json"),
        Hostile("metadata of eight megabytes", lambda: _text("A" * full), "trailing-bytes"),
        Hostile("metadata of escapes", lambda: _text('\\"' * (full // 2)), "header-too-large"),
        Hostile("metadata made wide by one letter", lambda: _text("😀" + "A" * full), "header-too-large"),
        Hostile("metadata made wide by one escape", lambda: _text("\\ud83d\\ude00" + "A" * full), "header-too-large"),
        Hostile(
            "metadata made wide by a letter and an escape",
            lambda: _text("é\\ud83d\\ude00" + "A" * full),
            "header-too-large",
        ),
        Hostile("three hundred thousand metadata keys", lambda: _metadata('"{0}":"{0}"', 300_000), "header-invalid"),
        Hostile(
            "two hundred thousand escaped keys", lambda: _metadata('"\\u0041{0}":"\\u0041"', 250_000), "header-invalid"
        ),
    ]
