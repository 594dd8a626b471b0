"""Makes malformed weight files, each wrong in one way, with the reason that it has to be refused for."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from tests.stand_ins.adapter_files import raw_safetensors

Field = dict[str, object]


@dataclass(frozen=True)
class Hostile:
    """One malformed file: what is wrong, its bytes, its file name, the reason code of its refusal."""

    about: str
    content: bytes
    reason: str
    name: str = "weights.safetensors"


def entry(begin: int = 0, end: int = 4, *, dtype: object = "F32", shape: object = None) -> Field:
    """Returns the description of a tensor, by default one F32 number."""
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [begin, end]}


def of(header: object, body: int = 4) -> bytes:
    """Returns a file with this header and a body of zeros."""
    return raw_safetensors(header, bytes(body))


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return buffer.getvalue()


def _zip_behind_safetensors() -> bytes:
    return of({"a": entry()}) + _torch_zip()


def _long_lists() -> bytes:
    return ('{"a":{"dtype":"U8","shape":[' + "1," * 4_000_000 + '1],"data_offsets":[0,1]}}').encode()


def _quarter_million_tensors() -> bytes:
    row = '"{0}":{{"dtype":"U8","shape":[1],"data_offsets":[{0},{1}]}}'
    return ("{" + ",".join(row.format(index, index + 1) for index in range(250_000)) + "}").encode()


def _spelt_otherwise() -> bytes:
    """Tensors whose keys hide behind escapes, so that nothing can be counted without parsing."""
    row = '"{0}":{{"dtype":"U8","shape":[1],"data\\u005foffsets":[{0},{1}]}}'
    return ("{" + ",".join(row.format(index, index + 1) for index in range(60_000)) + "}").encode()


_DUPLICATE = (
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[%s]}}'
)
_ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def formats() -> list[Hostile]:
    """Returns files that are something else than safetensors."""
    return [
        Hostile("no bytes at all", b"", "empty-file"),
        Hostile("three bytes", b"\1\0\0", "truncated"),
        Hostile("a length and nothing else", (64).to_bytes(8, "little"), "truncated"),
        Hostile("a web page", b"<!DOCTYPE html>\n<html><body>401</body></html>", "html-page"),
        Hostile("a web page after white space", b"\r\n\t  <html>", "html-page"),
        Hostile("a web page with a byte order mark", b"\xef\xbb\xbf<?xml version='1.0'?>", "html-page"),
        Hostile("an error in JSON", b'{"error": "Unauthorized", "code": 401}', "not-safetensors"),
        Hostile(
            "a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "not-safetensors"
        ),
        Hostile("a gzip stream", gzip.compress(of({"a": entry()})), "not-safetensors"),
        Hostile("a GGUF file", b"GGUF\3\0\0\0" + bytes(64), "not-safetensors"),
        Hostile("a torch zip", _torch_zip(), "pickle"),
        *(Hostile(f"pickle protocol {p}", pickle.dumps({"a": [1] * 50}, protocol=p), "pickle") for p in (2, 3, 4, 5)),
        Hostile("a sound file that ends in .pt", of({"a": entry()}), "pickle", "weights.pt"),
        Hostile("a sound file that ends in .BIN", of({"a": entry()}), "pickle", "adapter_model.BIN"),
        Hostile("a sound file that ends in .ckpt", of({"a": entry()}), "pickle", "model.ckpt"),
        Hostile("a sound file that ends in .pth", of({"a": entry()}), "pickle", "model.pth"),
        Hostile("a zip behind a sound file", _zip_behind_safetensors(), "trailing-bytes"),
    ]


def headers() -> list[Hostile]:
    """Returns files whose header as a whole is wrong."""
    sound = json.dumps({"a": entry()}).encode()
    return [
        Hostile("a header of 2^64-1 bytes", b"\xff" * 8 + sound, "header-too-large"),
        Hostile("a header of 100 MB", raw_safetensors(sound, claimed_bytes=100_000_001), "header-too-large"),
        Hostile("a header longer than the file", raw_safetensors(sound, claimed_bytes=4000), "truncated"),
        Hostile("a header of no bytes", raw_safetensors(b"", bytes(8)), "header-invalid"),
        Hostile("a header cut short", raw_safetensors(sound[:-3], bytes(4)), "header-not-json"),
        Hostile("a header that starts with spaces", of(b"  " + sound), "header-invalid"),
        Hostile("a header padded with zeros", of(sound + b"\0\0"), "header-not-json"),
        Hostile("a header padded with line ends", of(sound + b"\n\n"), "header-invalid"),
        Hostile("a header in UTF-16", of(sound.decode().encode("utf-16-le")), "header-not-json"),
        Hostile("a header in Latin-1", of(sound.replace(b'"a"', b'"\xe9"')), "header-not-json"),
        Hostile("two objects", of(sound + b"{}"), "header-not-json"),
        Hostile("a list", of(b"[]", 0), "header-invalid"),
        Hostile("lists in lists", of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0), "header-not-json"),
        Hostile("NaN", of(b'{"a":NaN}', 0), "header-not-json"),
        Hostile("a number of 5000 digits", of(b'{"a":' + b"9" * 5000 + b"}", 0), "header-not-json"),
        Hostile("a text without end", of(b'{"' + b'\\"' * 6_000_000, 0), "header-not-json"),
        Hostile("four million sizes", of(_long_lists(), 1), "header-invalid"),
        Hostile("a quarter million tensors", of(_quarter_million_tensors(), 250_000), "too-many-tensors"),
        Hostile("sixty thousand tensors behind escapes", of(_spelt_otherwise(), 60_000), "too-many-tensors"),
        Hostile("metadata that is no object", of({"__metadata__": [], "a": entry()}), "header-invalid"),
        Hostile("metadata that is no text", of({"__metadata__": {"x": 1}, "a": entry()}), "header-invalid"),
        Hostile("metadata in metadata", of({"__metadata__": {"x": {}}, "a": entry()}), "header-invalid"),
        Hostile(
            "half a surrogate pair", of(b'{"__metadata__":{"x":"\\ud800"},"a":%s}' % _ONE.encode()), "header-invalid"
        ),
        Hostile(
            "a metadata key twice", of(b'{"__metadata__":{"x":"1","x":"2"},"a":%s}' % _ONE.encode()), "header-invalid"
        ),
        Hostile(
            "metadata twice", of(b'{"__metadata__":{},"__metadata__":{},"a":%s}' % _ONE.encode()), "header-invalid"
        ),
    ]


def tensors() -> list[Hostile]:
    """Returns files one of whose tensors is wrong."""
    return [
        Hostile("a name twice, same bytes", of(_DUPLICATE % b"0,4"), "duplicate-tensor"),
        Hostile("a name twice, next bytes", of(_DUPLICATE % b"4,8", 8), "duplicate-tensor"),
        Hostile("an empty name", of({"": entry()}), "bad-name"),
        Hostile("a name with NUL", of({"a\0b": entry()}), "bad-name"),
        Hostile("a name with a terminal's escape", of({"\x1b[2J": entry()}), "bad-name"),
        Hostile("a name that turns text round", of({"a\u202eb": entry()}), "bad-name"),
        Hostile("a name of half a surrogate pair", of({"a\ud800": entry()}), "bad-name"),
        Hostile("a name of a megabyte", of({"a" * 2**20: entry()}), "bad-name"),
        Hostile("a name of 300 letters of two bytes", of({"é" * 300: entry()}), "bad-name"),
        Hostile("an unknown element type", of({"a": entry(dtype="F7")}), "bad-dtype"),
        Hostile("a complex element type", of({"a": entry(0, 8, dtype="C64")}, 8), "bad-dtype"),
        Hostile("an element type that is a list", of({"a": entry(dtype=["F32"])}), "bad-dtype"),
        Hostile("a hundred thousand dimensions", of({"a": entry(shape=[1] * 100_000)}), "bad-shape"),
        Hostile("six dimensions", of({"a": entry(shape=[1] * 6)}), "bad-shape"),
        Hostile("a size of nothing", of({"a": entry(0, 0, shape=[2**40, 0])}, 0), "bad-shape"),
        Hostile("a negative size", of({"a": entry(shape=[-1])}), "bad-shape"),
        Hostile("sizes whose product is 2^64", of({"a": entry(0, 0, shape=[2**32, 2**32])}, 0), "bad-span"),
        Hostile("a size of 2^70", of({"a": entry(shape=[2**70])}), "bad-shape"),
        Hostile("a size that is true", of({"a": entry(shape=[True])}), "bad-shape"),
        Hostile("a size that is 1.0", of({"a": entry(shape=[1.0])}), "bad-shape"),
        Hostile("a shape that is a number", of({"a": entry(shape=1)}), "bad-shape"),
        Hostile("a description that is a number", of({"a": 1}), "header-invalid"),
        Hostile("a description without a shape", of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}), "header-invalid"),
        Hostile("a description with more", of({"a": entry() | {"code": "x"}}), "header-invalid"),
        Hostile("a shape twice", of(f'{{"a":{_ONE[:-1]},"shape":[1]}}}}'.encode()), "header-invalid"),
    ]


def spans() -> list[Hostile]:
    """Returns files whose byte ranges are wrong."""
    return [
        Hostile("a span of the wrong length", of({"a": entry(0, 3)}, 3), "bad-span"),
        Hostile("a span that runs backwards", of({"a": entry(4, 0)}), "bad-span"),
        Hostile("a span before the body", of({"a": entry(-4, 0)}), "bad-span"),
        Hostile("a span of three offsets", of({"a": entry() | {"data_offsets": [0, 4, 4]}}), "bad-span"),
        Hostile("a span of texts", of({"a": entry() | {"data_offsets": ["0", "4"]}}), "bad-span"),
        Hostile("a hole at the start", of({"a": entry(4, 8)}, 8), "bad-span"),
        Hostile("a hole in the middle", of({"a": entry(), "b": entry(8, 12)}, 12), "bad-span"),
        Hostile("an overlap", of({"a": entry(0, 8, shape=[2]), "b": entry(4, 8)}, 8), "bad-span"),
        Hostile("two tensors in one place", of({"a": entry(), "b": entry()}), "bad-span"),
        Hostile("a body one byte short", of({"a": entry()}, 3), "truncated"),
        Hostile("no body", of({"a": entry()}, 0), "truncated"),
        Hostile("a body one byte long", of({"a": entry()}, 5), "trailing-bytes"),
        Hostile("a body and no tensor", of({}, 4), "trailing-bytes"),
    ]


MAKERS: tuple[Callable[[], list[Hostile]], ...] = (formats, headers, tensors, spans)


def every_hostile_file() -> list[Hostile]:
    """Returns all of them."""
    return [hostile for maker in MAKERS for hostile in maker()]
