"""What every kind of hub has to do: publish each conversion exactly once, whole, and find it again by its id alone.

A new file in catalogs/hubs/ is tested here by itself. Kills and races of real processes are tested beside each hub.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalogs.errors import Refused
from catalogs.hub import Hub, OpenHub
from catalogs.hubs import HUBS
from catalogs.release import Release, file_hashes, open_release

every_hub = pytest.mark.parametrize("kind", HUBS.values(), ids=HUBS)
IDS = [f"{number:02x}" * 32 for number in range(3)]


def release(folder: Path, conversion_id: str, *, title: str = "Bold") -> Release:
    folder.mkdir(parents=True)
    (folder / "bold.safetensors").write_bytes(conversion_id.encode())
    (folder / "README.md").write_text(f"# {title}\n")
    (folder / "unet").mkdir()
    (folder / "unet" / "adapter_model.safetensors").write_bytes(b"unet of " + conversion_id.encode())
    subject = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in file_hashes(folder).items()]
    manifest = {"subject": subject, "conversion_id": conversion_id, "title": title}
    (folder / "provenance.json").write_text(json.dumps(manifest))
    return open_release(folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the hub of a test lives. A hub that needs a server gets a stand-in here."""
    return tmp_path / "hub"


def opened(kind: Hub, place: Path) -> OpenHub:
    return kind.open(place)


@every_hub
def test_it_says_what_it_is(kind: Hub, place: Path) -> None:
    assert HUBS[kind.name] is kind
    assert opened(kind, place).name == kind.name
    assert kind.summary
    assert "\n" not in kind.summary


@every_hub
def test_looking_leaves_no_trace(kind: Hub, place: Path) -> None:
    assert opened(kind, place).find(IDS[0]) is None
    assert list(opened(kind, place).publications()) == []
    assert not place.exists()


@every_hub
def test_a_publication_is_found_by_another_process_with_the_hashes_of_its_files(
    kind: Hub, place: Path, tmp_path: Path
) -> None:
    one = release(tmp_path / "release", IDS[0])

    published = opened(kind, place).publish(one)

    assert published == opened(kind, place).find(IDS[0])
    assert (published.hub, published.conversion_id) == (kind.name, IDS[0])
    assert (published.files, published.manifest_sha256) == (one.files, one.manifest_sha256)
    assert published.location


@every_hub
def test_publishing_twice_publishes_once(kind: Hub, place: Path, tmp_path: Path) -> None:
    one = release(tmp_path / "release", IDS[0])

    assert opened(kind, place).publish(one) == opened(kind, place).publish(one)
    assert len(list(opened(kind, place).publications())) == 1


@every_hub
def test_a_release_built_again_with_other_bytes_does_not_replace_the_first(
    kind: Hub, place: Path, tmp_path: Path
) -> None:
    first = opened(kind, place).publish(release(tmp_path / "first", IDS[0]))
    again = release(tmp_path / "again", IDS[0], title="Bold, built later")

    assert opened(kind, place).publish(again) == first


@every_hub
def test_equal_titles_do_not_meet(kind: Hub, place: Path, tmp_path: Path) -> None:
    hub = opened(kind, place)
    published = [hub.publish(release(tmp_path / each, each, title="Same")) for each in IDS]

    assert len({publication.slug for publication in published}) == len(IDS)
    assert {publication.conversion_id for publication in hub.publications()} == set(IDS)


@every_hub
def test_a_release_that_changed_since_it_was_opened_is_refused(kind: Hub, place: Path, tmp_path: Path) -> None:
    one = release(tmp_path / "release", IDS[0])
    (one.folder / "bold.safetensors").write_bytes(b"changed")

    with pytest.raises(Refused):
        opened(kind, place).publish(one)
    assert opened(kind, place).find(IDS[0]) is None


@every_hub
@pytest.mark.parametrize("title", ["../../escape", "/etc/passwd", "a\0b", "", "con", "é" * 500, "a/b\\c"])
def test_no_title_leads_out_of_the_hub(kind: Hub, place: Path, tmp_path: Path, title: str) -> None:
    published = opened(kind, place).publish(release(tmp_path / "release", IDS[0], title=title))

    assert opened(kind, place).find(IDS[0]) == published
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "release"]
