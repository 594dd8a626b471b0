"""What can go wrong in lorax, sorted by what the caller does next.

    LoraxError
    |-- Refused        this item, for ever: it carries a stable reason code
    |   |-- BadFile        the file is broken or hostile
    |   `-- Unsupported    a sound file that this version cannot move
    |-- TryLater       the same call may work another time
    `-- Stop           the run cannot go on

Every message says what was seen, where, what was expected and what to do next.
"""

from __future__ import annotations

from typing import Self

REASONS: dict[str, str] = {
    # broken or hostile files
    "empty-file": "The file holds no bytes.",
    "not-safetensors": "The file is not in the safetensors format.",
    "html-page": "The file is a web page saved under the name of a weight file.",
    "pickle": "The file is a pickle, which can run code when it is opened, so it is never opened.",
    "truncated": "The file ends before its last tensor does.",
    "trailing-bytes": "The file goes on after its last tensor.",
    "header-too-large": "The header claims more bytes than a header may have.",
    "header-not-json": "The header is not JSON.",
    "header-invalid": "The header is JSON, but not of the form that safetensors prescribes.",
    "duplicate-tensor": "Two tensors of the file have the same name.",
    "too-many-tensors": "The file lists more tensors than an adapter or a base model may have.",
    "bad-name": "A tensor's name is empty, too long or not printable.",
    "bad-dtype": "A tensor has an element type that cannot be used here.",
    "bad-shape": "A tensor's shape is impossible or does not fit its role.",
    "bad-span": "The byte ranges of the tensors overlap, leave holes or do not match the shapes.",
    "non-finite": "A tensor holds NaN or infinity.",
    "all-zero": "The adapter changes nothing: every update is zero.",
    "incomplete-pair": "A module lacks one of the tensors that its update is made of.",
    "rank-too-large": "An update's rank is larger than the limit or far larger than the weight it patches.",
    "bad-config": "The configuration beside the weights is missing, broken or contradicts itself.",
    "unreadable": "The file cannot be opened.",
    "missing-weights": "There are no weights: the file does not exist or lists no tensor.",
    # sound files that this version cannot move
    "unknown-dialect": "No dialect recognises the names of the tensors.",
    "ambiguous-dialect": "More than one dialect recognises the names of the tensors.",
    "unknown-tensor": "Some tensors belong to no module of the base model, so nothing may be said about their effect.",
    "unsupported-algorithm": "The adapter uses an algorithm that this version cannot move.",
    "base-unknown": "No base model at hand has the modules that the adapter patches.",
    "base-undecided": "Several base models have the modules that the adapter patches and nothing tells them apart.",
    "base-contradicted": "The adapter's own evidence about its base model contradicts itself.",
    "needs-base": "The update can only be said with the weights of its base model, which are not here.",
    "unwritable": "The dialect asked for has no word for a part of the adapter.",
    "no-common-site": "No weight that the adapter patches has a counterpart in the target base model.",
    "would-harm": "No method tried keeps the effect of any of the adapter's updates in the target base model.",
    # may work another time
    "out-of-memory": "There was not enough memory.",
    "file-changed": "The file changed while it was being read.",
}
"""Every reason code that lorax can give, with one sentence for people."""


class LoraxError(Exception):
    """Is the root of everything lorax raises on purpose."""


class _Reasoned(LoraxError):  # noqa: N818 - errors are named for what the caller does next
    """Carries a reason code of REASONS, a message and the place it happened at.

    Raises KeyError when the code is not in REASONS: codes are public and have to be written down first.
    """

    def __init__(self, reason: str, message: str, *, where: str = "") -> None:
        REASONS[reason]
        self.reason = reason
        self.message = _printable(message)
        self.where = _printable(where)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the default would call the constructor with the message alone.
        return _rebuild, (type(self), self.reason, self.message, self.where)

    def at(self, where: str) -> Self:
        """Gives the same error, told about another place (the name that the user knows the file by)."""
        return type(self)(self.reason, self.message, where=where)


def _printable(text: str) -> str:
    """Escapes what a terminal would obey and a log could not store: messages quote what strangers wrote."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(escaped)


def _rebuild(kind: type[_Reasoned], reason: str, message: str, where: str) -> _Reasoned:
    return kind(reason, message, where=where)


class Refused(_Reasoned):
    """Says no to one item, for ever."""


class BadFile(Refused):
    """Says that the file itself is broken or hostile."""


class Unsupported(Refused):
    """Says that the file is sound but beyond this version."""


class TryLater(_Reasoned):
    """Says that the same call may work another time."""


class Stop(LoraxError):  # noqa: N818
    """Says that the whole run cannot go on, and what to change."""
