"""What the tests of catalogs share: ledgers that hold a story, and releases ready to publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.ledger import Ledger, Reader
from catalogs.release import Release, open_release
from catalogs.store import sha256_file
from tests.stand_ins.ledger_story import story


@pytest.fixture(scope="session")
def told() -> Reader:
    """A reader of a ledger that holds a whole run."""
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        return ledger.reader()


@pytest.fixture(scope="session")
def empty() -> Reader:
    """A reader of a ledger that holds nothing."""
    with Ledger.in_memory() as ledger:
        return ledger.reader()


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Release]:
    """Builds a release folder with weights, card and manifest, and opens it."""

    def build(conversion_id: str, *, title: str = "Bold", content: bytes = b"weights") -> Release:
        folder = tmp_path / "releases" / conversion_id
        folder.mkdir(parents=True)
        (folder / "bold.safetensors").write_bytes(content)
        (folder / "README.md").write_text("# Bold\n")
        subject = [{"name": p.name, "digest": {"sha256": sha256_file(p)}} for p in sorted(folder.iterdir())]
        manifest = {"subject": subject, "conversion_id": conversion_id, "title": title}
        (folder / "provenance.json").write_text(json.dumps(manifest))
        return open_release(folder)

    return build
