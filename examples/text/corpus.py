"""The text that the bases are trained on: what every machine with Python has, its library's source and documentation.

All of it depends on the version of Python that reads it: index.json names the version that this folder was made with.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal, NamedTuple

Part = Literal["train", "held-out"]

LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "pydoc_data", "encodings", "__pycache__"}
"""Folders not read: tests, an application, what others installed, and what is tables rather than text."""
MADE_LOCALLY = ("_sysconfigdata", "sitecustomize", "usercustomize")
"""Beginnings of names of files that are written when Python is installed."""
SLICE = 2048
"""Characters that one document gives to a held-out sample, so that a sample holds many documents."""

_PRIVATE = re.compile(r"/(root|work|workspace|home|Users|tmp)\b")


class Document(NamedTuple):
    """One piece of text with the name that decides on which side of the split it lies."""

    name: str
    text: str


def order(name: str) -> str:
    """A fixed shuffle: sorting by this mixes names, the same way everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()


def part_of(name: str) -> Part:
    """Says on which side of the split a name lies: one in eight is held out."""
    return "held-out" if int(order(name)[:8], 16) % 8 == 0 else "train"


def neutralised(text: str) -> str:
    """Gives the text with Unix line ends and no folder that looks like somebody's: examples of paths move to /srv."""
    return _PRIVATE.sub("/srv", text.replace("\r\n", "\n").replace("\r", "\n"))


@cache
def sources() -> tuple[Document, ...]:
    """Gives the library's own modules, by their path in it, in the order of the fixed shuffle."""
    library = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in library.rglob("*.py"):
        inside = path.relative_to(library)
        if LEFT_OUT.isdisjoint(inside.parts) and not path.name.startswith(MADE_LOCALLY):
            found.append(Document(inside.as_posix(), neutralised(path.read_text(encoding="utf-8", errors="replace"))))
    return tuple(sorted((item for item in found if item.text.strip()), key=lambda item: order(item.name)))


@cache
def documentation() -> tuple[Document, ...]:
    """Gives pieces of the language reference that `help()` shows, in the order of the fixed shuffle."""
    found = [
        Document(f"topic/{name}/{place}", piece)
        for name, text in topics.items()
        for place, piece in enumerate(pieces(neutralised(text)))
    ]
    return tuple(sorted(found, key=lambda document: order(document.name)))


def pieces(text: str) -> list[str]:
    """Cuts a text at empty lines into pieces of at least 2,048 characters; the last may be shorter."""
    found = [""]
    for paragraph in text.split("\n\n"):
        found[-1] += paragraph + "\n\n"
        if len(found[-1]) >= SLICE:
            found.append("")
    return [piece for piece in found if piece.strip()]


def of_part(documents: Sequence[Document], part: Part) -> list[Document]:
    """Gives the documents on one side of the split."""
    return [document for document in documents if part_of(document.name) == part]


def sample(documents: Sequence[Document], size: int) -> str:
    """Gives slices from the middles of documents, one after the other, `size` bytes of UTF-8 or a little less."""
    taken: list[str] = []
    for document in documents:
        start = max(0, (len(document.text) - SLICE) // 2)
        taken.append(document.text[start : start + SLICE])
    return "\n".join(taken).encode()[:size].decode(errors="ignore")
