"""Builds release folders: the converted files, a card, a preview, and provenance.json over all of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from catalogs.model_card import render_card
from catalogs.provenance import ConversionRecord, require_publishable, write_manifest
from catalogs.store import sync_folder
from tasks.border import Ended, attempt
from tasks.conversion import staged_files
from tasks.crash_points import AFTER_RELEASE_BUILT, crash_point
from tasks.ticks import tick

RELEASE = "release"
PREVIEW = "preview.png"
CARD = "README.md"
LIBRARIES = {"peft": "peft"}
"""Which library a dialect's files are loaded with, where it is not diffusers."""


class ReleaseItem(TypedDict):
    """A conversion that may be published, with all that the ledger knows about it."""

    entry_key: str
    record: ConversionRecord
    title: str
    base_model: str
    image: str | None


class Released(TypedDict):
    """A release folder and the hash that names all of its files, or why there is none."""

    entry_key: str
    conversion_id: str
    title: str
    folder: str
    manifest_sha256: str
    ended: Ended | None


def build_shard(items: Sequence[ReleaseItem], *, conversions: str) -> list[Released]:
    """Returns one record per conversion. A release left by an earlier run is built anew.

    What was never scored, or did not pass, ends here whatever was asked for.
    """
    return [_attempt(item, Path(conversions)) for item in items]


def release_folder(conversions: Path, conversion_id: str) -> Path:
    """Returns where the release of a conversion is built."""
    return conversions / conversion_id / RELEASE


def _attempt(item: ReleaseItem, conversions: Path) -> Released:
    built = attempt(lambda: _build(item, conversions))
    crash_point(AFTER_RELEASE_BUILT)
    tick("release")
    name = item["record"].conversion_id
    why, manifest = (built, "") if isinstance(built, Ended) else (None, built)
    folder = str(release_folder(conversions, name))
    return Released(
        entry_key=item["entry_key"],
        conversion_id=name,
        title=item["title"],
        folder=folder,
        manifest_sha256=manifest,
        ended=why,
    )


def _writes_text(release: Path) -> bool:
    """Tells whether peft's settings in a release name the task of a language model."""
    configs = [json.loads(path.read_bytes()) for path in release.rglob("adapter_config.json")]
    return any(config.get("task_type") == "CAUSAL_LM" for config in configs)


def _build(item: ReleaseItem, conversions: Path) -> str:
    """Returns the manifest's sha256 of the release that lies in its folder afterwards."""
    record = item["record"]
    require_publishable(record)
    folder = release_folder(conversions, record.conversion_id)
    draft = folder.with_name(f".{RELEASE}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(staged_files(conversions, record.conversion_id), draft)
    preview = item["image"]
    if preview is not None:
        shutil.copyfile(preview, draft / PREVIEW)
    weights = min(path.relative_to(draft).as_posix() for path in draft.rglob("*.safetensors"))
    card = render_card(
        record,
        title=item["title"],
        base_model=item["base_model"],
        weights_name=weights,
        library_name=LIBRARIES.get(record.dialect, "diffusers"),
        preview_name=PREVIEW if preview is not None else None,
        writes_text=_writes_text(draft),
    )
    (draft / CARD).write_text(card, encoding="utf-8")
    release = write_manifest(draft, record, title=item["title"])
    sync_folder(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return release.manifest_sha256
