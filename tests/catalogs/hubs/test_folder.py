from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import Refused, Stop, TryLater
from catalogs.hubs.folder import FolderHub, open_folder_hub, slug
from catalogs.release import Release, open_release

MakeRelease = Callable[..., Release]
ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.fixture
def hub(tmp_path: Path) -> FolderHub:
    return FolderHub(tmp_path / "hub")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_publication_lies_under_its_slug_with_all_its_files(hub: FolderHub, make_release: MakeRelease) -> None:
    release = make_release(ID, title="Bold & Brash!")

    publication = hub.publish(release)

    assert publication.slug == "bold-brash-01234567"
    assert publication.location == str(hub.root / publication.slug)
    assert publication.files == release.files
    assert open_release(hub.root / publication.slug).manifest_sha256 == release.manifest_sha256
    assert names(hub.root) == [".incoming", publication.slug]
    assert names(hub.root / ".incoming") == []


def test_what_was_published_is_found_by_its_id_alone(hub: FolderHub, make_release: MakeRelease) -> None:
    assert hub.find(ID) is None
    published = hub.publish(make_release(ID))

    assert FolderHub(hub.root).find(ID) == published
    assert hub.find("01234567" + "0" * 56) is None  # the same short id is not the same conversion
    assert hub.find(OTHER) is None


def test_publishing_again_changes_nothing_even_under_another_title(hub: FolderHub, make_release: MakeRelease) -> None:
    first = hub.publish(make_release(ID))
    again = make_release(OTHER, title="Renamed")
    manifest = (again.folder / "provenance.json").read_text().replace(OTHER, ID)
    (again.folder / "provenance.json").write_text(manifest)

    assert hub.publish(open_release(again.folder)) == first
    assert names(hub.root) == [".incoming", first.slug]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_somebody_else_put_there_is_never_overwritten(
    hub: FolderHub, make_release: MakeRelease, tmp_path: Path, kind: str
) -> None:
    release = make_release(ID)
    place = hub.root / slug(release.title, ID)
    hub.root.mkdir()
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")

    with pytest.raises(Refused) as caught:
        hub.publish(release)

    assert caught.value.reason == "name-taken"
    assert not list(hub.root.rglob("*.safetensors"))


def test_an_altered_publication_is_noticed_when_it_is_looked_for(hub: FolderHub, make_release: MakeRelease) -> None:
    publication = hub.publish(make_release(ID))
    weights = Path(publication.location) / "bold.safetensors"
    weights.write_bytes(b"tampered")

    with pytest.raises(Refused, match=r"bold\.safetensors differ"):
        hub.find(ID)


def test_a_release_that_changed_after_it_was_opened_is_not_published(hub: FolderHub, make_release: MakeRelease) -> None:
    release = make_release(ID)
    (release.folder / "bold.safetensors").write_bytes(b"changed")

    with pytest.raises(Refused, match="build it again"):
        hub.publish(release)
    assert names(hub.root) == [".incoming"]
    assert names(hub.root / ".incoming") == []


def test_leftovers_of_earlier_attempts_are_swept_and_those_of_others_are_left(
    hub: FolderHub, make_release: MakeRelease
) -> None:
    for left in (f"{ID}.dead", f"{OTHER}.alive", "removed.1234"):
        (hub.root / ".incoming" / left).mkdir(parents=True)
        (hub.root / ".incoming" / left / "half").touch()

    hub.publish(make_release(ID))

    assert names(hub.root / ".incoming") == [f"{OTHER}.alive"]


def test_all_publications_are_listed_for_rebuilding_a_ledger(hub: FolderHub, make_release: MakeRelease) -> None:
    assert list(hub.publications()) == []
    made = [hub.publish(make_release(each, title=title)) for each, title in ((ID, "B"), (OTHER, "A"))]
    (hub.root / "something-else").mkdir()

    assert list(hub.publications()) == sorted(made, key=lambda publication: publication.slug)


def test_a_full_disk_is_tried_later(hub: FolderHub, make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release(ID)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryLater) as caught:
        hub.publish(release)
    monkeypatch.undo()

    assert caught.value.reason == "disk-full"
    assert names(hub.root / ".incoming") == []
    assert hub.publish(release).conversion_id == ID


def test_only_conversion_ids_are_looked_for(hub: FolderHub) -> None:
    with pytest.raises(Stop, match="not a conversion id"):
        hub.find("../../etc")


def test_a_hub_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Stop, match="is not a folder"):
        open_folder_hub(tmp_path / "file")


hostile = st.one_of(
    st.text(max_size=300),
    st.sampled_from(["..", "../..", "/etc/passwd", "C:\\x", "con", "a\0b", "\u202egnp", "．．／", "-", "", "é" * 300]),
)


@given(hostile, st.sampled_from([ID, OTHER]))
def test_no_title_leaves_the_hub_and_each_id_has_its_own_place(title: str, conversion_id: str) -> None:
    name = slug(title, conversion_id)

    assert re.fullmatch(r"[a-z0-9-]{1,96}-[0-9a-f]{8}", name)
    assert Path("/hub", name).resolve().parent == Path("/hub")
    assert slug(title, ID) != slug(title, OTHER)


DYING_AT_EACH_STEP = """
import os, random, signal, sys
from pathlib import Path
from catalogs.hubs.folder import FolderHub
from catalogs.release import open_release


class Blind(FolderHub):
    # The control: it does not look for the marker, and takes another name when its own is taken.
    def publish(self, release):
        self.root.mkdir(exist_ok=True)
        staging = self.root / (".incoming-%d" % os.getpid())
        self._stage(release, staging)
        staging.rename(next(p for p in (self.root / ("bold-%d" % n) for n in range(9)) if not p.exists()))
        os.listdir(self.root)  # where an answer gets lost


def published(hub, release, dies_before):
    # Publishes in a child that is killed before its n-th touch of the file system; says whether it survived.
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    left = [dies_before]

    def touch(event, _arguments):
        if event == "open" or event.startswith(("os.", "shutil.")):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(touch)
    os.fsync = lambda _descriptor: touch("os.fsync", ())  # a killed process loses nothing that needs syncing
    hub.publish(release)
    os._exit(0)


folder, kind = Path(sys.argv[1]), {"folder": FolderHub, "blind": Blind}[sys.argv[2]]
release = open_release(Path(sys.argv[3]))
luck = random.Random(11)
steps, survived = 0, False
while not survived:
    hub = kind(folder / str(steps))
    survived = published(hub, release, steps)
    published(hub, release, luck.randrange(40))  # killed again somewhere, or not
    assert published(hub, release, 10_000)
    steps += 1
print(steps)
"""


def publish_under_kills(folder: Path, kind: str, release: Release) -> list[list[str]]:
    """Publishes one release into a fresh hub for each step at which it can be killed; returns the ids in each hub."""
    command = [sys.executable, "-c", DYING_AT_EACH_STEP, str(folder), kind, str(release.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [published_ids(folder / str(step)) for step in range(int(done.stdout))]


def published_ids(root: Path) -> list[str]:
    folders = [path for path in root.iterdir() if not path.name.startswith(".")]
    return sorted(open_release(folder).conversion_id for folder in folders)


def test_killed_at_any_step_nothing_is_lost_or_doubled_or_left(tmp_path: Path, make_release: MakeRelease) -> None:
    hubs = publish_under_kills(tmp_path, "folder", make_release(ID))

    assert len(hubs) >= 20
    assert all(ids == [ID] for ids in hubs)
    assert all(names(tmp_path / str(step) / ".incoming") == [] for step in range(len(hubs)))


def test_the_same_kills_catch_a_hub_that_does_not_look_first(tmp_path: Path, make_release: MakeRelease) -> None:
    hubs = publish_under_kills(tmp_path, "blind", make_release(ID))

    assert any(len(ids) > 1 for ids in hubs)


@pytest.fixture
def releases(make_release: MakeRelease) -> list[Release]:
    return [make_release(f"{number:08x}" * 8, content=bytes([number]) * 100_000) for number in range(8)]


RACE = """
import os, sys
from pathlib import Path
from catalogs.hubs.folder import FolderHub
from catalogs.release import open_release

hub, releases = FolderHub(Path(sys.argv[1])), [Path(name) for name in sys.argv[2:]]
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        for folder in releases:
            assert hub.publish(open_release(folder)).conversion_id == open_release(folder).conversion_id
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_four_publishers_of_the_same_releases_publish_each_once(hub: FolderHub, releases: list[Release]) -> None:
    command = [sys.executable, "-c", RACE, str(hub.root), *(str(release.folder) for release in releases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    assert published_ids(hub.root) == sorted(release.conversion_id for release in releases)
    assert names(hub.root / ".incoming") == []
