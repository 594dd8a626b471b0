"""A folder as people have it: loose weight files with their sidecars, adapter folders, and what got in between.

Each of these is one entry:
    NAME.safetensors (.pt .ckpt .bin .pth)   sidecars NAME + .civitai.info .metadata.json .cm-info.json .json
    a folder with adapter_config.json        weights in adapter_model.safetensors or .bin, card in README.md
    a folder with pytorch_lora_weights.*     card in README.md
A README.md with front matter also speaks for the loose files of its folder. Hidden names are passed over. Symbolic
links are never followed: one that leads out of the folder becomes an entry that the store will refuse.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from catalogs.entry import CatalogEntry
from catalogs.errors import Stop
from catalogs.sidecar import clean, merge, read_sidecar
from catalogs.source import Source

WEIGHTS: Final = (".safetensors", ".pt", ".ckpt", ".bin", ".pth")
SIDECARS: Final = (".civitai.info", ".metadata.json", ".cm-info.json", ".json")
PEFT_CONFIG: Final = "adapter_config.json"
PEFT_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
DIFFUSERS_WEIGHTS: Final = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
CARD: Final = "README.md"


def scan_folder(location: str | Path, *, catalogue: str = "") -> Iterator[CatalogEntry]:
    """Yields one entry per adapter in a folder and its sub-folders, sorted by entry id, the same each time.

    `catalogue` names the catalogue in the keys of its entries; by default the folder's own name. Raises Stop when the
    folder cannot be listed.
    """
    root = Path(os.path.abspath(location))  # noqa: PTH100  # not resolve(): the names of links are kept as they are
    if not root.is_dir():
        raise Stop(f"{root} is not a folder; [catalogue] path has to name the folder that holds the adapters")
    entries = (entry for folder, names in _walk(root) for entry in _entries(root, folder, names, catalogue))
    yield from sorted(entries, key=lambda entry: entry.entry_id)


SOURCE = Source(name="folder", summary="A folder of adapter files with their sidecars", scan=scan_folder)


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields each folder with the names of its files and of the links that lead out of the root."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        names: list[str] = []
        try:
            with os.scandir(folder) as listing:
                found = sorted(listing, key=lambda item: item.name)
        except OSError as problem:
            raise Stop(f"{folder} cannot be listed ({problem.strerror}); make it readable or move it away") from problem
        for item in found:
            if item.name.startswith("."):
                continue
            if item.is_dir(follow_symlinks=False):
                waiting.append(folder / item.name)
            elif not item.is_symlink() or _leads_out(folder / item.name, root):
                names.append(item.name)
        yield folder, names


def _leads_out(link: Path, root: Path) -> bool:
    return not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(root))


def _entries(root: Path, folder: Path, names: Sequence[str], catalogue: str) -> Iterator[CatalogEntry]:
    whole_folder = _weights_of_folder(names)
    card = [folder / CARD] if CARD in names and not (folder / CARD).is_symlink() else []
    if whole_folder is not None:
        config = folder / PEFT_CONFIG if PEFT_CONFIG in names and whole_folder in PEFT_WEIGHTS else None
        yield _entry(root, folder / whole_folder, catalogue, config=config, place=folder, sidecars=card)
    for name in names:
        path = folder / name
        is_foreign_folder = path.is_symlink() and path.is_dir()
        if name != whole_folder and (path.suffix.lower() in WEIGHTS or is_foreign_folder):
            beside = [name[: -len(path.suffix) or None] + ending for ending in SIDECARS]
            own = [folder / each for each in beside if each in names and not (folder / each).is_symlink()]
            yield _entry(root, path, catalogue, place=path, sidecars=[*own, *card])


def _weights_of_folder(names: Sequence[str]) -> str | None:
    """Returns the weights file that speaks for its whole folder; the expected one where only the config is there."""
    expected = (*(PEFT_WEIGHTS if PEFT_CONFIG in names else ()), *DIFFUSERS_WEIGHTS)
    return next((name for name in expected if name in names), PEFT_WEIGHTS[0] if PEFT_CONFIG in names else None)


def _entry(
    root: Path,
    weights: Path,
    catalogue: str,
    *,
    place: Path,
    sidecars: Sequence[Path],
    config: Path | None = None,
) -> CatalogEntry:
    facts = merge(read_sidecar(path, weights_name=weights.name) for path in sidecars)
    relative = place.relative_to(root).as_posix()
    entry_id = os.fsencode(relative).decode("utf-8", "backslashreplace")
    own_name = place.name if place != weights else weights.name.removesuffix(weights.suffix)
    return CatalogEntry(
        catalogue=catalogue or clean(root.name) or "folder",
        entry_id=entry_id,
        name=facts.name or clean(own_name) or entry_id,
        weights=str(weights),
        config=str(config) if config else None,
        sidecars=tuple(str(path) for path in sidecars),
        base_label=facts.base_label,
        terms=facts.terms,
        trigger_words=facts.trigger_words,
        prompts=facts.prompts,
        declared_sha256=facts.sha256,
        size_bytes=weights.lstat().st_size if os.path.lexists(weights) else 0,
        origin=facts.origin or entry_id,
        real_person=facts.real_person,
        minor=facts.minor,
        gated=facts.gated,
        opt_out=facts.opt_out,
        kind=facts.kind or "",
        creator=facts.creator,
        notes=facts.notes,
    )
