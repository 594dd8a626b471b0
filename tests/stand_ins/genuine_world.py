"""Makes a migration of adapters that nobody here made, between bases that are known by name alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.stand_ins.small_world import SmallWorld

ROOT = Path(__file__).parents[2]
FILES = {
    "disney": ROOT / "tests" / "genuine" / "disney_cloneofsimo.safetensors",
    "processors": ROOT / "tests" / "genuine" / "attention_processor_2023.safetensors",
    "falcon": ROOT / "tests" / "genuine" / "smart_falcon_lokr.safetensors",
    "pokemon": ROOT / "examples" / "digits" / "catalogue" / "pokemon_sd15.safetensors",
}
"""All made for Stable Diffusion 1.5: of three dialects, one of them LoKr, two of them with a text encoder."""

SETTINGS = """
name = "genuine-{name}"
[catalogue]
path = "catalogue"
[bases."sd1.5"]
[bases.{name}]
known = "{known}"
[[pairs]]
source = "sd1.5"
target = "{name}"
method = "{method}"
{dialect}
"""


def make_genuine_world(
    folder: Path,
    *,
    known: str,
    files: Iterable[str] = FILES,
    method: str = "copy",
    dialect: str = "",
    data: Path | None = None,
) -> SmallWorld:
    """Writes catalogue and settings into `folder`; the target is called by the last part of its known name."""
    catalogue = folder / "catalogue"
    catalogue.mkdir(parents=True)
    for name in files:
        shutil.copyfile(FILES[name], catalogue / f"{name}.safetensors")
    spoken = f'dialect = "{dialect}"' if dialect else ""
    settings = folder / "migration.toml"
    settings.write_text(SETTINGS.format(name=known.rpartition("/")[2], known=known, method=method, dialect=spoken))
    return SmallWorld(settings, data or folder / "data")
