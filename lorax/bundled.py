"""Textual inversions that trainers put into an adapter's file: `bundle_emb.<token>.<text encoder>`."""

from __future__ import annotations

TOKEN = "token"  # noqa: S105 - a word of the prompt
"""The role of an embedding of a token."""
_BUNDLE = "bundle_emb."


def bundled_token(name: str) -> tuple[str, str] | None:
    """Splits the name of a bundled embedding, None for any other tensor."""
    return (name, TOKEN) if name.startswith(_BUNDLE) else None


def why_bundled(spelling: str) -> str:
    """Gives the reason why an embedding is left out, "" for anything else."""
    if spelling.startswith(_BUNDLE) or (spelling.startswith("<") and spelling.endswith(">")):
        return "a token's embedding fits one text encoder only; carry it beside the adapter as a textual inversion"
    return ""
