"""index.json: what is where, with losses, seeds and times; one record per thing made, written after each."""

from __future__ import annotations

import json
import platform
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from examples.text.models import read_json

Record = dict[str, Any]
PARTS = ("held_out", "bases", "adapters", "natives")
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "safetensors")


def made_with() -> dict[str, str]:
    """Gives the versions that text and weights hang on."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "unicode": unicodedata.unidata_version, **libraries}


class Index:
    """The records of a folder, by path. Their order in the file is `paths`', whatever was made first."""

    def __init__(self, out: Path, paths: Sequence[str]) -> None:
        self.out, self.paths = out, paths
        self.file = out / "index.json"
        self.made_with: Mapping[str, str] = made_with()
        self.records: dict[str, Record] = {}
        self.read()

    def read(self) -> None:
        """Takes over the records in the file whose paths exist: another process may have written some."""
        stored = read_json(self.file) if self.file.exists() else {}
        self.made_with = stored.get("made_with", self.made_with)
        found = [record for part in PARTS for record in stored.get(part, ())]
        self.records |= {record["path"]: record for record in found if (self.out / record["path"]).exists()}

    def add(self, path: str, record: Record) -> None:
        """Keeps a record and writes the file."""
        self.read()
        self.records[path] = {"path": path, **record}
        self.write()

    def write(self) -> None:
        """Writes the records; natives are also listed under the adapters whose domain they share."""
        parts: dict[str, list[Record]] = {part: [] for part in PARTS}
        for path in self.paths:
            if path in self.records:
                parts[path.split("/")[0]].append(self.records[path])
        for record in parts["adapters"]:
            own = [native for native in parts["natives"] if native["domain"] == record["domain"]]
            targets = dict.fromkeys(native["base"] for native in parts["natives"])
            record["natives"] = {target: [n["path"] for n in own if n["base"] == target] for target in targets}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_suffix(".partial")
        unfinished.write_text(json.dumps({"made_with": self.made_with, **parts}, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self.file)
