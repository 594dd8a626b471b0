"""Makes malformed weight files, each wrong in one way, with the reason that it has to be refused for.

Only the standard library: the fuzz target starts from these files, in an environment of its own.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

Field = dict[str, object]


@dataclass(frozen=True)
class Hostile:
    """One malformed file: what is wrong, how its bytes are made, the reason code of its refusal, its file name."""

    about: str
    make: bytes | Callable[[], bytes]
    reason: str
    name: str = "weights.safetensors"

    @property
    def content(self) -> bytes:
        """The bytes; large ones are made anew each time, so that a test holds one of them at most."""
        return self.make if isinstance(self.make, bytes) else self.make()


def raw(header: bytes, body: bytes = b"", *, claimed_bytes: int | None = None) -> bytes:
    """Returns a file around any header, with a length before it that may be a lie."""
    return (len(header) if claimed_bytes is None else claimed_bytes).to_bytes(8, "little") + header + body


def of(header: object, body: int = 4) -> bytes:
    """Returns a file with this header, JSON if it is not bytes, and a body of zeros."""
    return raw(header if isinstance(header, bytes) else json.dumps(header).encode(), bytes(body))


def entry(begin: int = 0, end: int = 4, *, dtype: object = "F32", shape: object = None) -> Field:
    """Returns the description of a tensor, by default one F32 number."""
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [begin, end]}


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
SOUND = json.dumps({"a": entry()}).encode()
_DUPLICATE = b'{"a":' + ONE + b',"a":{"dtype":"F32","shape":[1],"data_offsets":[%s]}}'


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return buffer.getvalue()


def _torch_tar() -> bytes:
    """The layout of torch before 1.6, of pickles in a tar."""
    buffer, content = io.BytesIO(), pickle.dumps({"protocol_version": 1000}, protocol=2)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def other_formats() -> list[Hostile]:
    """Returns files that are something else than safetensors."""
    return [
        Hostile("no bytes at all", b"", "empty-file"),
        Hostile("a web page", b"<!DOCTYPE html>\n<html><body>401</body></html>", "html-page"),
        Hostile("a web page after white space", b"\r\n\t  <html>", "html-page"),
        Hostile("a web page with a byte order mark", b"\xef\xbb\xbf<?xml version='1.0'?>", "html-page"),
        Hostile("an error in JSON", b'{"error": "Unauthorized", "code": 401}', "not-safetensors"),
        Hostile("an error in words", b"Rate limit exceeded\n", "not-safetensors"),
        Hostile("a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "not-safetensors"),
        Hostile("a gzip stream", gzip.compress(of(SOUND), mtime=0), "not-safetensors"),
        Hostile("a GGUF file", b"GGUF\3\0\0\0" + bytes(64), "not-safetensors"),
        Hostile("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64), "not-safetensors"),
        Hostile("an HDF5 file", b"\x89HDF\r\n\x1a\n" + bytes(64), "not-safetensors"),
        Hostile("a program", b"\x7fELF\2\1\1\0" + bytes(64), "not-safetensors"),
        Hostile("a zip behind a sound file", of(SOUND) + _torch_zip(), "trailing-bytes"),
        Hostile("a zip in the padding", raw(SOUND + _torch_zip(), bytes(4)), "header-not-json"),
    ]


def pickles() -> list[Hostile]:
    """Returns pickles, known by their first bytes, and sound files with the names of pickles."""
    state = OrderedDict(weight=[1] * 50)
    return [
        Hostile("a torch zip", _torch_zip(), "pickle"),
        Hostile("a torch tar", _torch_tar(), "pickle"),
        *(Hostile(f"a dict, pickle protocol {p}", pickle.dumps({"a": [1] * 50}, p), "pickle") for p in range(6)),
        *(Hostile(f"a state dict, pickle protocol {p}", pickle.dumps(state, p), "pickle") for p in range(6)),
        *(
            Hostile(f"a sound file called {name}", of(SOUND), "pickle", name)
            for name in ("weights.pt", "model.ckpt", "model.pth", "w.pkl", "a.pickle", "adapter_model.BIN", "x.PT")
        ),
    ]


def lengths() -> list[Hostile]:
    """Returns files whose header is not as long as they say."""
    file = of(SOUND)
    cuts = (3, 5, 7, 8, 9, 8 + len(SOUND) // 2, 8 + len(SOUND), len(file) - 1)
    return [
        Hostile("a header of 2^64-1 bytes", raw(SOUND, claimed_bytes=2**64 - 1), "header-too-large"),
        Hostile("a header of 2^63 bytes", raw(SOUND, claimed_bytes=2**63), "header-too-large"),
        Hostile("a header of 100 MB and one byte", raw(SOUND, claimed_bytes=100_000_001), "header-too-large"),
        Hostile("a header of 8 MiB and one byte", raw(SOUND, claimed_bytes=2**23 + 1), "header-too-large"),
        Hostile("a header longer than the file", raw(SOUND, claimed_bytes=4000), "truncated"),
        Hostile("a header one byte longer than the file", raw(SOUND, claimed_bytes=len(SOUND) + 1), "truncated"),
        Hostile("a header of no bytes", raw(b"", bytes(8)), "header-invalid"),
        Hostile("a header one byte too short", raw(SOUND, bytes(4), claimed_bytes=len(SOUND) - 1), "header-not-json"),
        Hostile(
            "a header that takes a byte of the body",
            raw(SOUND, bytes(5), claimed_bytes=len(SOUND) + 1),
            "header-not-json",
        ),
        *(Hostile(f"a file cut after {cut} bytes", file[:cut], "truncated") for cut in cuts),
        Hostile("a body one byte long", of(SOUND, 5), "trailing-bytes"),
        Hostile("a body and no tensor", of({}, 4), "trailing-bytes"),
        Hostile("a body of two files", of(SOUND) * 2, "trailing-bytes"),
    ]


def json_texts() -> list[Hostile]:
    """Returns files whose header is not the JSON that it has to be."""
    return [
        Hostile("a header that starts with spaces", of(b"  " + SOUND), "header-invalid"),
        Hostile("a header with a byte order mark", of(b"\xef\xbb\xbf" + SOUND), "header-invalid"),
        Hostile("a header padded with zeros", of(SOUND + b"\0\0"), "header-not-json"),
        Hostile("a header padded with line ends", of(SOUND + b"\n\n"), "header-invalid"),
        Hostile("a header in UTF-16", of(SOUND.decode().encode("utf-16-le")), "header-not-json"),
        Hostile("a name in Latin-1", of(b'{"\xe9":%s}' % ONE), "header-not-json"),
        Hostile("a name in overlong UTF-8", of(b'{"\xc0\xaf":%s}' % ONE), "header-not-json"),
        Hostile("a surrogate in UTF-8", of(b'{"\xed\xa0\x80":%s}' % ONE), "header-not-json"),
        Hostile("metadata in Latin-1", of(b'{"__metadata__":{"x":"\xe9"},"a":%s}' % ONE), "header-not-json"),
        Hostile("Latin-1 beside an escape", of(b'{"__metadata__":{"x":"\\n\xe9"},"a":%s}' % ONE), "header-not-json"),
        Hostile("two objects", of(SOUND + b"{}"), "header-not-json"),
        Hostile("a list", of(b"[]", 0), "header-invalid"),
        Hostile("a comma too many", of(b'{"a":%s,}' % ONE), "header-not-json"),
        Hostile("a comma too few", of(b'{"a":%s "b":%s}' % (ONE, ONE)), "header-not-json"),
        Hostile("a comma too many in a tensor", of(b'{"a":%s,}}' % ONE[:-1]), "header-not-json"),
        Hostile("no colon", of(b'{"a" %s}' % ONE), "header-not-json"),
        Hostile("a brace for a comma", of(b'{"a":%s{"b":%s}' % (ONE, ONE)), "header-not-json"),
        Hostile("single quotes", of(SOUND.replace(b'"', b"'")), "header-not-json"),
        Hostile("a comment", of(b'{/* */"a":%s}' % ONE), "header-not-json"),
        Hostile("a line end in a name", of(b'{"a\nb":%s}' % ONE), "header-not-json"),
        Hostile("a bad escape", of(b'{"\\x41":%s}' % ONE), "header-not-json"),
        Hostile("NaN", of(b'{"a":NaN}', 0), "header-not-json"),
        Hostile(
            "an infinite size", of(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}'), "header-not-json"
        ),
        Hostile("a number of 5000 digits", of(b'{"a":' + b"9" * 5000 + b"}", 0), "header-not-json"),
        Hostile("a size of 01", of(b'{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}'), "header-not-json"),
        Hostile("lists in lists", of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0), "header-not-json"),
        Hostile("objects in objects", of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 0), "header-not-json"),
        Hostile("metadata that is no object", of({"__metadata__": [], "a": entry()}), "header-invalid"),
        Hostile("metadata that is null", of({"__metadata__": None, "a": entry()}), "header-invalid"),
        Hostile("metadata that is a number", of({"__metadata__": {"x": 1}, "a": entry()}), "header-invalid"),
        Hostile("metadata in metadata", of({"__metadata__": {"x": {}}, "a": entry()}), "header-invalid"),
        Hostile("metadata that is a tensor", of(b'{"__metadata__":%s}' % ONE), "header-invalid"),
        Hostile("half a surrogate pair", of(b'{"__metadata__":{"x":"\\ud800"},"a":%s}' % ONE), "header-invalid"),
        Hostile("a key of half a pair", of(b'{"__metadata__":{"\\udc00":"x"},"a":%s}' % ONE), "header-invalid"),
        Hostile("a metadata key twice", of(b'{"__metadata__":{"x":"1","x":"2"},"a":%s}' % ONE), "header-invalid"),
        Hostile(
            "a metadata key in two spellings",
            of(b'{"__metadata__":{"x":"1","\\u0078":"2"},"a":%s}' % ONE),
            "header-invalid",
        ),
        Hostile("metadata twice", of(b'{"__metadata__":{},"__metadata__":{},"a":%s}' % ONE), "header-invalid"),
        Hostile(
            "metadata in two spellings",
            of(b'{"__metadata__":{},"__metadata\\u005f_":{},"a":%s}' % ONE),
            "header-invalid",
        ),
    ]


def tensors() -> list[Hostile]:
    """Returns files one of whose tensors is wrong."""
    return [
        Hostile("a name twice, same bytes", of(_DUPLICATE % b"0,4"), "duplicate-tensor"),
        Hostile("a name twice, next bytes", of(_DUPLICATE % b"4,8", 8), "duplicate-tensor"),
        Hostile("a name in two spellings", of(b'{"a":%s,"\\u0061":%s}' % (ONE, ONE)), "duplicate-tensor"),
        Hostile("an empty name", of({"": entry()}), "bad-name"),
        Hostile("a name with NUL", of({"a\0b": entry()}), "bad-name"),
        Hostile("a name of two lines", of({"a\nb": entry()}), "bad-name"),
        Hostile("a name with a terminal's escape", of({"\x1b[2J": entry()}), "bad-name"),
        Hostile("a name with DEL", of(b'{"a\x7f":%s}' % ONE), "bad-name"),
        Hostile("a name that turns text round", of({"a\u202eb": entry()}), "bad-name"),
        Hostile("a name that turns text round, in UTF-8", of('{"a\u202e":'.encode() + ONE + b"}"), "bad-name"),
        Hostile("a name of half a surrogate pair", of({"a\ud800": entry()}), "bad-name"),
        Hostile("a name of a megabyte", of({"a" * 2**20: entry()}), "bad-name"),
        Hostile("a name of 513 bytes", of({"a" * 513: entry()}), "bad-name"),
        Hostile("a name of 300 letters of two bytes", of({"é" * 300: entry()}), "bad-name"),
        *(
            Hostile(f"the element type {d}", of({"a": entry(dtype=d)}), "bad-dtype")
            for d in ("F7", "f32", "F4", "C64", "")
        ),
        *(Hostile(f"an element type of {d!r}", of({"a": entry(dtype=d)}), "bad-dtype") for d in (["F32"], None, 4)),
        Hostile("a hundred thousand dimensions", of({"a": entry(shape=[1] * 100_000)}), "bad-shape"),
        Hostile("six dimensions", of({"a": entry(shape=[1] * 6)}), "bad-shape"),
        Hostile("a size of nothing", of({"a": entry(0, 0, shape=[2**40, 0])}, 0), "bad-shape"),
        Hostile("nothing but a size of nothing", of({"a": entry(0, 0, shape=[0])}, 0), "bad-shape"),
        Hostile("a negative size", of({"a": entry(shape=[-1])}), "bad-shape"),
        Hostile("two negative sizes", of({"a": entry(shape=[-1, -1])}), "bad-shape"),
        Hostile("sizes whose product is 2^64", of({"a": entry(0, 0, shape=[2**32, 2**32])}, 0), "bad-span"),
        Hostile("a size of 2^70", of({"a": entry(shape=[2**70])}), "bad-shape"),
        Hostile("a size that is true", of({"a": entry(shape=[True])}), "bad-shape"),
        Hostile("a size that is 1.0", of({"a": entry(shape=[1.0])}), "bad-shape"),
        Hostile("a size that is a text", of({"a": entry(shape=["1"])}), "bad-shape"),
        Hostile("a shape that is half a surrogate pair", of({"a": entry(shape="\ud800")}), "bad-shape"),
        Hostile("a shape that is a terminal's escape", of({"a": entry(shape="\x1b[2J")}), "bad-shape"),
        Hostile("a type that is a terminal's escape", of({"a": entry(dtype="\x1b[2J")}), "bad-dtype"),
        Hostile("a field that is a terminal's escape", of({"a": {"\x1b[2J": 1}}), "header-invalid"),
        Hostile("a shape that is a number", of({"a": entry(shape=1)}), "bad-shape"),
        Hostile("a description that is a number", of({"a": 1}), "header-invalid"),
        Hostile("a description that is a list", of({"a": ["F32", [1], [0, 4]]}), "header-invalid"),
        Hostile("a description without a shape", of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}), "header-invalid"),
        Hostile("a description with more", of({"a": entry() | {"code": "x"}}), "header-invalid"),
        Hostile(
            "a description in other letters",
            of({"a": {"Dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
            "header-invalid",
        ),
        Hostile("a shape twice", of(b'{"a":%s,"shape":[1]}}' % ONE[:-1]), "header-invalid"),
        Hostile(
            "a shape twice and no type", of(b'{"a":{"shape":[1],"shape":[1],"data_offsets":[0,4]}}'), "header-invalid"
        ),
        Hostile("a field behind an escape", of(b'{"a":%s}' % ONE.replace(b"dtype", b"d\\u0074ype")), "header-invalid"),
    ]


def spans() -> list[Hostile]:
    """Returns files whose byte ranges are wrong."""
    two = {"a": entry(), "b": entry(4, 8)}
    return [
        Hostile("a span of the wrong length", of({"a": entry(0, 3)}, 3), "bad-span"),
        Hostile("a span that runs backwards", of({"a": entry(4, 0)}), "bad-span"),
        Hostile("a span before the body", of({"a": entry(-4, 0)}), "bad-span"),
        Hostile("a span of one offset", of({"a": entry() | {"data_offsets": [4]}}), "bad-span"),
        Hostile("a span of three offsets", of({"a": entry() | {"data_offsets": [0, 4, 4]}}), "bad-span"),
        Hostile("a span that is a terminal's escape", of({"a": entry() | {"data_offsets": "\x1b[2J\n"}}), "bad-span"),
        Hostile("a span of texts", of({"a": entry() | {"data_offsets": ["0", "4"]}}), "bad-span"),
        Hostile("a span of fractions", of({"a": entry() | {"data_offsets": [0.0, 4.0]}}), "bad-span"),
        Hostile("a span of truth", of({"a": entry(0, 1, dtype="U8") | {"data_offsets": [False, True]}}, 1), "bad-span"),
        Hostile("a span around 2^64", of({"a": entry() | {"data_offsets": [2**64 - 4, 2**64]}}), "bad-span"),
        Hostile("a hole at the start", of({"a": entry(4, 8)}, 8), "bad-span"),
        Hostile("a hole in the middle", of({"a": entry(), "b": entry(8, 12)}, 12), "bad-span"),
        Hostile("an overlap", of({"a": entry(0, 8, shape=[2]), "b": entry(4, 8)}, 8), "bad-span"),
        Hostile("one tensor within another", of({"a": entry(0, 12, shape=[3]), "b": entry(4, 8)}, 12), "bad-span"),
        Hostile("two tensors in one place", of({"a": entry(), "b": entry()}), "bad-span"),
        Hostile("a shape of twice the span", of({"a": entry(shape=[2])}), "bad-span"),
        Hostile("a type of half the span", of({"a": entry(dtype="F16")}), "bad-span"),
        Hostile("the end past the file", of({"a": entry(0, 2**40, shape=[2**38])}), "truncated"),
        Hostile("the second tensor past the file", of(two, 7), "truncated"),
    ]


MAKERS: tuple[Callable[[], list[Hostile]], ...] = (
    other_formats,
    pickles,
    lengths,
    json_texts,
    tensors,
    spans,
)


def every_small_file() -> list[Hostile]:
    """Returns all of them but the bombs."""
    return [hostile for maker in MAKERS for hostile in maker()]
