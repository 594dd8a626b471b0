from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from catalogs.errors import Refused
from catalogs.release import Release, open_release, read_conversion_id
from catalogs.store import sha256_file

MakeRelease = Callable[..., Release]
ID = "ab" * 32


def rewrite(release: Release, change: Callable[[dict[str, Any]], object]) -> None:
    path = release.folder / "provenance.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_release_names_the_hash_of_each_of_its_files(make_release: MakeRelease) -> None:
    release = make_release(ID)

    assert release.conversion_id == ID
    assert dict(release.files) == {path.name: sha256_file(path) for path in release.folder.iterdir()}
    assert release.manifest_sha256 == dict(release.files)["provenance.json"]


def test_an_altered_missing_or_added_file_is_named(make_release: MakeRelease) -> None:
    release = make_release(ID)
    (release.folder / "bold.safetensors").write_bytes(b"other")
    (release.folder / "README.md").unlink()
    (release.folder / "extra.txt").touch()

    with pytest.raises(Refused, match=r"README\.md, bold\.safetensors, extra\.txt differ") as caught:
        open_release(release.folder)
    assert caught.value.reason == "hash-mismatch"


@pytest.mark.parametrize(
    "name", ["../escape", "a/b/c", "/a", "a//b", "a/..", "./a", "", ".hidden", "a/.hidden", "a\nb", "x" * 200, "café"]
)
def test_names_that_could_be_paths_are_refused(make_release: MakeRelease, name: str) -> None:
    release = make_release(ID)
    rewrite(release, lambda m: m["subject"].append({"name": name, "digest": {"sha256": "0" * 64}}))

    with pytest.raises(Refused, match="names a file"):
        open_release(release.folder)


@pytest.mark.parametrize("wrong", ["", "xyz", "AB" * 32, "../" + "a" * 16, 7])
def test_a_conversion_id_is_hex(make_release: MakeRelease, wrong: object) -> None:
    release = make_release(ID)
    rewrite(release, lambda m: m.update(conversion_id=wrong))

    with pytest.raises(Refused, match="not 16 to 64 hex digits"):
        open_release(release.folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"subject": 7}', "[" * 10_000])
def test_a_broken_manifest_is_no_marker(make_release: MakeRelease, content: str) -> None:
    release = make_release(ID)
    (release.folder / "provenance.json").write_text(content)

    assert read_conversion_id(release.folder) is None
    with pytest.raises(Refused, match="no manifest"):
        open_release(release.folder)


def test_a_release_may_hold_a_folder_per_component(make_release: MakeRelease) -> None:
    release = make_release(ID)
    weights = release.folder / "unet" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"unet")
    named = {"name": "unet/adapter_model.safetensors", "digest": {"sha256": sha256_file(weights)}}
    rewrite(release, lambda m: m["subject"].append(named))

    assert dict(open_release(release.folder).files)["unet/adapter_model.safetensors"] == sha256_file(weights)
    weights.write_bytes(b"altered")
    with pytest.raises(Refused, match=r"unet/adapter_model\.safetensors differ"):
        open_release(release.folder)


@pytest.mark.parametrize("target", ["README.md", "."])
def test_links_are_no_part_of_a_release(make_release: MakeRelease, target: str) -> None:
    release = make_release(ID)
    (release.folder / "link").symlink_to(release.folder / target)

    with pytest.raises(Refused, match="not a plain file"):
        open_release(release.folder)


def test_a_manifest_that_is_a_link_is_no_marker(make_release: MakeRelease) -> None:
    release = make_release(ID)
    manifest = release.folder / "provenance.json"
    manifest.rename(release.folder.parent / "away.json")
    manifest.symlink_to(release.folder.parent / "away.json")

    assert read_conversion_id(release.folder) is None
