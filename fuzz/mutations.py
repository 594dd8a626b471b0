"""Changes a safetensors file as somebody would who knows the format: a number, a name, a field, a tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from random import Random

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+|[ \t\r\n]+|.', re.DOTALL)
_NUMBER = re.compile(rb"-?[0-9]+")
_ENTRY = re.compile(rb'"(?:[^"\\]|\\.)*"[ \t\r\n]*:[ \t\r\n]*\{[^{}]*\}')
_SPAN = re.compile(rb'("data_offsets"\s*:\s*)\[[^\]]*\]')
_ODD = (
    b"0", b"-1", b"1e0", b"1.0", b"true", b"null", b"[]", b"{}", b'""', b'"a"', b'"\\ud800"', b'"\xc3\xa9"', b"\xff",
    b" ", b"\n", b",", b":", b"{", b"}", b"[", b"]", b'"__metadata__"', b'"__metadata__":{"a":"b"}', b'"dtype":"F32"',
    b'"shape":[1]', b'"data_offsets":[0,4]', b'"BF16"', b'"F8_E4M3"', b"9223372036854775807", b"18446744073709551616",
)  # fmt: skip
_WIDTHS = {b"F64": 8, b"I64": 8, b"F32": 4, b"I32": 4, b"F16": 2, b"BF16": 2, b"I16": 2}
_LARGEST_BODY = 4096


def mutated(content: bytes, random: Random, *, any_change: Callable[[bytes], bytes]) -> bytes:
    """Returns a changed file, the length before the header mostly right again.

    any_change: changes bytes blindly, as the fuzzer would.
    """
    claimed = int.from_bytes(content[:8], "little")
    if claimed > len(content) - 8 or random.random() < 0.05:
        return any_change(content)
    header, body = content[8 : 8 + claimed], content[8 + claimed :]
    if random.random() < 0.2:
        header = any_change(header)
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        header = random.choice(_CHANGES)(header, random)
    if random.random() < 0.5:
        header, body = _tiled(header)
    elif random.random() < 0.2:
        body = body[:-1] if random.random() < 0.5 else body + b"\0"
    length = len(header) + (random.choice((-1, 1, 2**32, 2**63)) if random.random() < 0.02 else 0)
    return (max(0, length)).to_bytes(8, "little") + header + body


def _number(header: bytes, random: Random) -> bytes:
    places = list(_NUMBER.finditer(header))
    if not places:
        return header
    place = random.choice(places)
    value = int(place[0][:30])
    odd = (value + 1, value - 1, -value, value * 2, 0, 2**31, 2**63, 2**64, int(random.choice(places)[0][:30]))
    return header[: place.start()] + str(random.choice(odd)).encode() + header[place.end() :]


def _token(header: bytes, random: Random) -> bytes:
    """Replaces, drops, doubles or swaps the words of the JSON text."""
    tokens = _TOKEN.findall(header)
    if len(tokens) < 2:
        return header
    one, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    match random.randrange(5):
        case 0:
            tokens[one] = random.choice(_ODD)
        case 1:
            tokens[one] = tokens[other]
        case 2:
            del tokens[one]
        case 3:
            tokens.insert(one, tokens[other])
        case _:
            tokens[one], tokens[other] = tokens[other], tokens[one]
    return b"".join(tokens)


def _tensor(header: bytes, random: Random) -> bytes:
    """Adds a tensor that there is, once more or under another name, or drops one."""
    entries = _ENTRY.findall(header)
    if not entries:
        return b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    chosen = random.choice(entries)
    match random.randrange(3):
        case 0:
            return header.replace(chosen, chosen + b"," + chosen, 1)
        case 1:
            return header.replace(chosen, chosen + b"," + b'"%d' % random.randrange(99) + chosen[1:], 1)
        case _:
            return header.replace(chosen, b"", 1).replace(b",,", b",").replace(b"{,", b"{").replace(b",}", b"}")


def _escape(header: bytes, random: Random) -> bytes:
    """Spells one letter as an escape."""
    place = random.randrange(len(header) + 1)
    if not header[place : place + 1].isalnum():
        return header
    return header[:place] + b"\\u%04x" % header[place] + header[place + 1 :]


def _padding(header: bytes, random: Random) -> bytes:
    return header + random.choice((b" ", b"    ", b"\n", b"\0", b"}"))


_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (_number, _number, _token, _token, _tensor, _escape, _padding)


def _tiled(header: bytes) -> tuple[bytes, bytes]:
    """The header with spans that fit its shapes, as far as they can be made out, and a body for them."""
    position = 0
    parts: list[bytes] = []
    last = 0
    for entry in _ENTRY.finditer(header):
        dtype = re.search(rb'"dtype"\s*:\s*"(\w+)"', entry[0])
        shape = re.search(rb'"shape"\s*:\s*\[([0-9,\s]*)\]', entry[0])
        if dtype is None or shape is None:
            continue
        end = position + _WIDTHS.get(dtype[1], 1) * prod(int(size[:9]) for size in re.findall(rb"[0-9]+", shape[1]))
        span = b"[%d,%d]" % (position, end)
        parts += [header[last : entry.start()], _SPAN.sub(lambda found, span=span: found[1] + span, entry[0])]
        last, position = entry.end(), end
    return b"".join((*parts, header[last:])), bytes(min(position, _LARGEST_BODY))
