from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from catalogs.entry import CatalogEntry
from catalogs.errors import Refused, Stop
from catalogs.sources.folder import scan_folder
from catalogs.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "my catalogue"
    folder.mkdir()
    return folder


def put(root: Path, name: str, content: bytes | str = b"weights") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def scan(root: Path) -> dict[str, CatalogEntry]:
    return {entry.entry_id: entry for entry in scan_folder(root)}


def test_a_loose_file_is_an_entry_with_what_its_sidecar_says(root: Path) -> None:
    put(root, "styles/bold.safetensors", b"12345")
    put(
        root,
        "styles/bold.civitai.info",
        json.dumps({"model": {"name": "Bold!", "type": "LORA"}, "baseModel": "SD 1.5"}),
    )
    put(root, "styles/bold.json", json.dumps({"sd version": "SD2", "activation text": "bold"}))
    put(root, "styles/bold.preview.png")

    entries = scan(root)

    assert list(entries) == ["styles/bold.safetensors"]
    entry = entries["styles/bold.safetensors"]
    assert (entry.catalogue, entry.name, entry.base_label, entry.kind) == ("my catalogue", "Bold!", "SD 1.5", "lora")
    assert (entry.trigger_words, entry.size_bytes, entry.config) == (("bold",), 5, None)
    assert entry.weights == str(root / "styles/bold.safetensors")
    assert [Path(path).name for path in entry.sidecars] == ["bold.civitai.info", "bold.json"]
    assert entry.origin == "styles/bold.safetensors"


def test_an_entry_has_the_example_prompts_of_all_its_sidecars(root: Path) -> None:
    put(root, "repo/bold.safetensors")
    put(root, "repo/bold.civitai.info", json.dumps({"images": [{"meta": {"prompt": "bold cat"}}, {"meta": None}]}))
    put(root, "repo/bold.metadata.json", json.dumps({"civitai": {"images": [{"meta": {"prompt": "bold dog"}}]}}))
    put(root, "repo/README.md", "---\ninstance_prompt: bold\nwidget:\n- text: a bold owl\n- text: '-'\n---\n")

    (entry,) = scan(root).values()

    assert entry.prompts == ("bold cat", "bold dog", "a bold owl")
    assert entry.trigger_words == ("bold",)
    assert CatalogEntry.from_json(entry.to_json()) == entry


def test_a_file_without_any_sidecar_is_an_entry_of_unknown_terms(root: Path) -> None:
    put(root, "lonely.ckpt")

    entry = scan(root)["lonely.ckpt"]

    assert (entry.name, entry.terms.is_known, entry.base_label) == ("lonely", False, None)


def test_a_peft_folder_is_one_entry_with_config_and_card(root: Path) -> None:
    put(root, "thin/adapter_config.json", "{}")
    put(root, "thin/adapter_model.safetensors")
    put(root, "thin/README.md", "---\nbase_model: digits/v1\nlicense: mit\n---\n")

    (entry,) = scan(root).values()

    assert (entry.entry_id, entry.name, entry.base_label, entry.terms.licence) == ("thin", "thin", "digits/v1", "mit")
    assert entry.weights == str(root / "thin/adapter_model.safetensors")
    assert entry.config == str(root / "thin/adapter_config.json")


def test_a_peft_folder_prefers_safetensors_and_its_other_files_are_entries_of_their_own(root: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "optimizer.pt"):
        put(root, f"thin/{name}", "{}")

    assert {key: Path(entry.weights).name for key, entry in scan(root).items()} == {
        "thin": "adapter_model.safetensors",
        "thin/adapter_model.bin": "adapter_model.bin",
        "thin/optimizer.pt": "optimizer.pt",
    }


def test_a_peft_folder_without_weights_is_an_entry_that_names_what_is_missing(root: Path) -> None:
    put(root, "thin/adapter_config.json", "{}")

    entry = scan(root)["thin"]

    assert (Path(entry.weights).name, entry.size_bytes) == ("adapter_model.safetensors", 0)
    with pytest.raises(Refused, match=r"adapter_model\.safetensors"):
        Store(root / "store").put(Path(entry.weights))


def test_a_diffusers_folder_is_one_entry(root: Path) -> None:
    put(root, "slanted/pytorch_lora_weights.safetensors")
    put(root, "slanted/README.md", "---\ninstance_prompt: slanted hand\n---\n")

    entry = scan(root)["slanted"]

    assert (entry.trigger_words, entry.config) == (("slanted hand",), None)


def test_a_card_also_speaks_for_the_loose_files_of_its_own_folder_only(root: Path) -> None:
    put(root, "repo/README.md", "---\nlicense: mit\n---\n")
    put(root, "repo/a.safetensors")
    put(root, "repo/deeper/b.safetensors")

    entries = scan(root)

    assert entries["repo/a.safetensors"].terms.licence == "mit"
    assert entries["repo/deeper/b.safetensors"].terms.licence is None


def test_the_catalogue_itself_may_be_one_adapter_folder(root: Path) -> None:
    put(root, "adapter_config.json", "{}")
    put(root, "adapter_model.safetensors")

    (entry,) = scan(root).values()

    assert (entry.entry_id, entry.name) == (".", "my catalogue")


def test_only_weights_make_entries_and_hidden_names_are_passed_over(root: Path) -> None:
    for name in ("notes.txt", "a.png", ".hidden.safetensors", ".git/x.safetensors", "._a.safetensors", "A.SAFETENSORS"):
        put(root, name)
    (root / "b.safetensors").mkdir()

    assert list(scan(root)) == ["A.SAFETENSORS"]


def test_every_scan_gives_the_same_entries_in_the_same_order(root: Path) -> None:
    for name in ("b/z.pt", "a.safetensors", "b.safetensors", "B.safetensors", "b/a.bin"):
        put(root, name)

    first = list(scan_folder(root))

    assert list(scan_folder(root)) == first
    assert [entry.entry_id for entry in first] == sorted(entry.entry_id for entry in first)


def test_a_moved_catalogue_keeps_its_ids(root: Path, tmp_path: Path) -> None:
    put(root, "a/b.safetensors")
    keys = [entry.key for entry in scan_folder(root, catalogue="mine")]
    root.rename(tmp_path / "elsewhere")

    assert (
        [entry.key for entry in scan_folder(tmp_path / "elsewhere", catalogue="mine")]
        == keys
        == ["mine:a/b.safetensors"]
    )


def test_links_that_lead_out_are_entries_that_the_store_refuses(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside/secret.safetensors")
    put(tmp_path, "outside/deeper/more.safetensors")
    (root / "file.safetensors").symlink_to(tmp_path / "outside/secret.safetensors")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "sidecar-of.safetensors").write_bytes(b"x")
    put(tmp_path, "outside/evil.info", json.dumps({"baseModel": "from outside"}))
    (root / "sidecar-of.civitai.info").symlink_to(tmp_path / "outside/evil.info")

    entries = scan(root)

    assert list(entries) == ["file.safetensors", "folder", "sidecar-of.safetensors"]
    assert entries["sidecar-of.safetensors"].base_label is None
    for name in ("file.safetensors", "folder"):
        with pytest.raises(Refused, match="symbolic link"):
            Store(tmp_path / "store").put(Path(entries[name].weights))


def test_links_inside_the_folder_add_nothing_and_loops_end(root: Path) -> None:
    put(root, "a/b.safetensors")
    (root / "again.safetensors").symlink_to(root / "a/b.safetensors")
    (root / "a/loop").symlink_to(root)

    assert list(scan(root)) == ["a/b.safetensors"]


def test_broken_sidecars_are_noted_and_the_entry_is_made_all_the_same(root: Path) -> None:
    put(root, "bold.safetensors")
    put(root, "bold.civitai.info", "{not json")
    put(root, "bold.json", json.dumps({"activation text": "bold"}))

    entry = scan(root)["bold.safetensors"]

    assert entry.trigger_words == ("bold",)
    assert len(entry.notes) == 1
    assert "bold.civitai.info" in entry.notes[0]


def test_a_name_that_is_no_utf8_still_makes_an_entry_for_the_ledger(root: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.safetensors")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")

    (entry,) = scan_folder(root)

    assert entry.entry_id == r"caf\xe9.safetensors"
    assert Path(entry.weights).read_bytes() == b"x"
    entry.entry_id.encode()


def test_a_place_that_is_no_folder_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="is not a folder"):
        list(scan_folder(tmp_path / "nowhere"))
