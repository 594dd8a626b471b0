"""The header check agrees with an independent one, and what it accepts safetensors accepts, byte for byte."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from lorax.errors import BadFile
from lorax.weight_file import open_weight_file
from tests.stand_ins.adapter_files import raw_safetensors

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1, "I64": 8, "F8_E4M3": 1}
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
ODD_NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, 2**64, 10**30]),
    st.booleans(),
    st.floats(allow_nan=False),
    st.none(),
)


@st.composite
def tiled_headers(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], int]:
    """Draws a sound header, as pairs, and the size of its body."""
    pairs: list[tuple[str, Any]] = []
    position = 0
    for name in draw(st.lists(NAMES, max_size=4)):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(1, 3), max_size=3))
        end = position + int(np.prod(shape, dtype=np.int64)) * SIZES[dtype]
        pairs.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}))
        position = end
    if draw(st.booleans()):
        metadata = draw(st.dictionaries(NAMES, st.one_of(NAMES, ODD_NUMBERS) if draw(st.booleans()) else NAMES))
        pairs.insert(draw(st.integers(0, len(pairs))), ("__metadata__", metadata))
    return draw(st.permutations(pairs)), position


def spoil(draw: st.DrawFn, pairs: list[tuple[str, Any]]) -> None:
    """Changes one thing of one tensor."""
    tensors = [value for name, value in pairs if name != "__metadata__"]
    if not tensors:
        return
    value = draw(st.sampled_from(tensors))
    match draw(st.sampled_from(["offset", "shape", "dtype", "field", "missing", "longer"])):
        case "offset" if "data_offsets" in value:
            value["data_offsets"][draw(st.integers(0, 1))] = draw(ODD_NUMBERS)
        case "shape" if value.get("shape"):
            value["shape"][0] = draw(ODD_NUMBERS)
        case "longer" if "shape" in value:
            value["shape"] = value["shape"] + [1] * draw(st.integers(1, 6))
        case "dtype":
            value["dtype"] = draw(st.sampled_from(["F32", "f32", "C64", "", None, 3]))
        case "field":
            value[draw(NAMES)] = 1
        case _:
            value.pop(draw(st.sampled_from(["dtype", "shape", "data_offsets"])), None)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draws a file that is sound, or wrong in a few places."""
    pairs, body = draw(tiled_headers())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        spoil(draw, pairs)
    body += draw(st.sampled_from([0, 0, 0, 0, 1, -1, 8]))
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    padding = draw(st.sampled_from(["", "", " ", "   ", "\n", "\0"]))
    return raw_safetensors((text + padding).encode(), bytes(index % 251 for index in range(max(0, body))))


def is_sound(content: bytes) -> bool:
    """Says whether a file is sound, in another way: by counting how often each byte of the body is claimed."""
    size = int.from_bytes(content[:8], "little")
    text, body = content[8 : 8 + size].decode(), content[8 + size :]
    if text.rstrip(" ") != text.strip() or not text.startswith("{") or "\0" in text:
        return False
    pairs = json.JSONDecoder(object_pairs_hook=lambda found: found).decode(text)
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        return False
    claims = np.zeros(len(body), dtype=np.int64)
    for name, fields in pairs:
        if name == "__metadata__":
            keys = [key for key, _ in fields]
            if len(set(keys)) != len(keys) or not all(isinstance(value, str) for _, value in fields):
                return False
        elif not claim(name, fields, claims):
            return False
    return bool((claims == 1).all())


def claim(name: str, fields: Any, claims: np.ndarray[Any, Any]) -> bool:
    """Marks the bytes of one tensor; says whether its description is sound."""
    if not isinstance(fields, list) or sorted(key for key, _ in fields) != ["data_offsets", "dtype", "shape"]:
        return False
    described = dict(fields)
    dtype, shape, span = described["dtype"], described["shape"], described["data_offsets"]
    numbers = [*shape, *span] if isinstance(shape, list) and isinstance(span, list) else [None]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return False
    if (
        not isinstance(dtype, str)
        or dtype not in SIZES
        or len(shape) > 5
        or len(span) != 2
        or not min(shape, default=1) > 0
    ):
        return False
    if not name or not name.isprintable() or len(name.encode()) > 512:
        return False
    begin, end = span
    count = 1
    for number in shape:
        count *= number
    if not 0 <= begin < end <= len(claims) or end - begin != count * SIZES[dtype]:
        return False
    claims[begin:end] += 1
    return True


@settings(max_examples=600)
@given(content=files())
def test_the_check_and_an_independent_one_agree(content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "oracle.safetensors"
    Path(path).write_bytes(content)

    try:
        file = open_weight_file(path)
    except BadFile:
        assert not is_sound(content)
        return

    assert is_sound(content)
    official = {
        name: (found["dtype"], tuple(found["shape"]), bytes(found["data"])) for name, found in deserialize(content)
    }
    assert file.tensors.keys() == official.keys()
    for name, entry in file.tensors.items():
        assert official[name] == (entry.dtype, entry.shape, content[entry.begin : entry.end])


@settings(max_examples=300)
@given(content=st.binary(max_size=200))
def test_no_bytes_can_do_more_than_be_refused(content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    Path(path).write_bytes(content)

    with contextlib.suppress(BadFile):
        open_weight_file(path)
        deserialize(content)
