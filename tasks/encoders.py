"""Where an encoder's folder lies: on this machine, or on the Hub at a fixed revision, fetched once."""

from __future__ import annotations

import re
from pathlib import Path

from lorax.errors import Stop

HUB = "hub:"
"""How the path of an encoder on the Hub begins: hub:owner/name@revision."""
_PATTERN = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]
"""Weights, configurations and vocabularies; no pickle is ever fetched, and no code."""


def encoder_folder(path: str) -> Path:
    """Returns the folder of an encoder, fetched into the Hub's cache where it is `hub:owner/name@revision`.

    Raises lorax.errors.Stop for a name that is not of this form, and where it cannot be fetched.
    """
    if not path.startswith(HUB):
        return Path(path)
    named = _PATTERN.fullmatch(path)
    if named is None:
        raise Stop(
            f"encoder {path!r}: a name on the Hub is written hub:owner/name@revision; the revision, a commit best, "
            "keeps scores of today and of next year comparable"
        )
    return _fetched(named["repository"], named["revision"])


def _fetched(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except (OSError, ValueError) as problem:
        raise Stop(
            f"encoder {HUB}{repository}@{revision}: it is neither in the Hub's cache here nor can it be fetched "
            f"({problem}). Fetch it where there is a network, or give [encoders] a folder of this machine"
        ) from problem
