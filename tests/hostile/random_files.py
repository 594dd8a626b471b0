"""Makes random safetensors files: sound ones in every legal spelling, and ones that are wrong in a place or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.hostile.makers import raw


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it will be written, repeated keys included."""


DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
LETTERS = 'ab.z_-9 é字😀"\\/\x7f\u202e\n\0'
ODD_VALUES: list[Any] = [
    -1, 0, 1, 2, 3, 4, 7, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, True, False, None, 1.0, 0.5, "1", "", [], {}, [1],
]  # fmt: skip
ODD_DTYPES: list[Any] = ["f32", "F4", "C64", "U32", "", None, 4, ["F32"]]
PADDINGS = ("", "", "", " ", "       ", "\n", "\t", "\0", "}", " {}")


def random_file(random: Random) -> bytes:
    """Returns a file; about half of them are sound."""
    pairs, position = _tiled(random)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        _spoil(random, pairs)
    if random.random() < 0.3:
        random.shuffle(pairs)
    text = _spelt(random, pairs) + (random.choice(PADDINGS) if random.random() < 0.4 else "")
    header = text.encode("utf-8", "surrogatepass")
    body = random.randbytes(max(0, position + (random.choice((-1, 1, 8)) if random.random() < 0.06 else 0)))
    claimed = len(header) + (random.choice((-1, 1, 2**40)) if random.random() < 0.02 else 0)
    content = raw(header, body, claimed_bytes=claimed)
    return _bitten(random, content) if random.random() < 0.1 else content


def _tiled(random: Random) -> tuple[Pairs, int]:
    """A sound header, as pairs, and the size of its body."""
    pairs = Pairs()
    position = 0
    for index in range(random.randrange(5)):
        dtype = random.choice(list(DTYPES))
        shape = [random.randint(1, 3) for _ in range(random.randrange(5))]
        end = position + DTYPES[dtype]
        for size in shape:
            end = position + (end - position) * size
        fields = Pairs([("dtype", dtype), ("shape", shape), ("data_offsets", [position, end])])
        if random.random() < 0.3:
            random.shuffle(fields)
        pairs.append((f"{_word(random, LETTERS[:9])}{index}", fields))
        position = end
    if random.random() < 0.4:
        texts = [(_word(random), _word(random)) for _ in range(random.randrange(3))]
        pairs.insert(0, ("__metadata__", Pairs(dict(texts).items())))
    return pairs, position


def _word(random: Random, letters: str = LETTERS) -> str:
    return "".join(random.choice(letters) for _ in range(random.randrange(6)))


def _spoil(random: Random, pairs: Pairs) -> None:
    random.choice(SPOILERS)(random, pairs)


def _spoil_field(random: Random, pairs: Pairs) -> None:
    if not pairs:
        return
    place = random.randrange(len(pairs))
    name, fields = pairs[place]
    if not isinstance(fields, Pairs) or not fields:
        return
    changed = Pairs(fields)
    index = random.randrange(len(changed))
    field, value = changed[index]
    match random.randrange(6):
        case 0:
            changed[index] = (field, random.choice(ODD_DTYPES if field == "dtype" else ODD_VALUES))
        case 1 | 2 if isinstance(value, list) and value:
            value = list(value)
            value[random.randrange(len(value))] = random.choice(ODD_VALUES)
            changed[index] = (field, value)
        case 3 if isinstance(value, list):
            changed[index] = (field, value + [1] * random.randint(1, 6))
        case 4:
            changed[index] = (random.choice((_word(random), "shape", "dtype")), value)
        case _:
            changed.append(random.choice(changed)) if random.random() < 0.5 else changed.pop(index)
    pairs[place] = (name, changed)


def _spoil_name(random: Random, pairs: Pairs) -> None:
    if pairs:
        place = random.randrange(len(pairs))
        names = [_word(random), "", "x" * 513, "é" * 256, "\ud800", "__metadata__", random.choice(pairs)[0]]
        pairs[place] = (random.choice(names), pairs[place][1])


def _spoil_order(random: Random, pairs: Pairs) -> None:
    """Lists a tensor again, leaves one out, or puts something else in its place."""
    if not pairs:
        return
    place = random.randrange(len(pairs))
    match random.randrange(3):
        case 0:
            pairs.insert(random.randrange(len(pairs) + 1), pairs[place])
        case 1:
            pairs.pop(place)
        case _:
            pairs[place] = (pairs[place][0], random.choice(ODD_VALUES))


SPOILERS: tuple[Callable[[Random, Pairs], None], ...] = (_spoil_field, _spoil_field, _spoil_name, _spoil_order)


def _spelt(random: Random, pairs: Pairs) -> str:
    """The pairs as JSON: blanks wherever they may be, letters plain or escaped."""
    blanks = ("", "", "", " ", "\n", "\t \r") if random.random() < 0.3 else ("",)
    plain = random.random() < 0.5

    def blank() -> str:
        return random.choice(blanks)

    def value(found: Any) -> str:
        if isinstance(found, Pairs):
            inner = f"{blank()},{blank()}".join(f"{text(k)}{blank()}:{blank()}{value(v)}" for k, v in found)
            return "{" + blank() + inner + blank() + "}"
        if isinstance(found, list):
            return "[" + blank() + f"{blank()},{blank()}".join(map(value, found)) + blank() + "]"
        return text(found) if isinstance(found, str) else json.dumps(found)

    def text(found: str) -> str:
        return json.dumps(found, ensure_ascii=not plain)

    rows = f"{blank()},{blank()}".join(f"{text(name)}{blank()}:{blank()}{value(own)}" for name, own in pairs)
    return "{" + rows + blank() + "}"


def _bitten(random: Random, content: bytes) -> bytes:
    """The file with some bytes changed, cut out or doubled."""
    place = random.randrange(len(content) + 1)
    match random.randrange(4):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + content[place + 1 :]
        case 2:
            return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]
        case _:
            return content[:place] + random.choice((b'"', b"{", b"}", b",", b"0", b"\\", b" ")) + content[place:]
