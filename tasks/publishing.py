"""Puts releases on a hub, each exactly once, and looks up what a killed run may have put there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from catalogs.errors import Stop
from catalogs.hub import OpenHub, Publication
from catalogs.hubs import HUBS
from catalogs.provenance import require_publishable_release
from catalogs.release import open_release
from tasks.border import Ended, attempt
from tasks.crash_points import AFTER_HUB_PUBLISHED, crash_point
from tasks.releasing import Released
from tasks.ticks import tick


class Published(TypedDict):
    """What lies on the hub, or why nothing does."""

    entry_key: str
    conversion_id: str
    body: dict[str, Any] | None
    ended: Ended | None


def publish_shard(items: Sequence[Released], *, hub: str, location: str) -> list[Published]:
    """Returns one record per release; what the hub has already is found there.

    A release that does not carry its own score card and a verdict that it passed never reaches the hub.
    """
    place = open_hub(hub, location)
    return [_publish(item, place) for item in items]


def find_published(conversion_ids: Sequence[str], *, hub: str, location: str) -> dict[str, dict[str, Any]]:
    """Returns what the hub has of these conversions, by conversion id."""
    place = open_hub(hub, location)
    found = {name: place.find(name) for name in conversion_ids}
    return {name: described(publication) for name, publication in found.items() if publication is not None}


def open_hub(kind: str, location: str) -> OpenHub:
    """Returns the hub at a place. Raises catalogs.errors.Stop for an unknown kind or an impossible place."""
    if kind not in HUBS:
        raise Stop(f"there is no kind of hub {kind!r}; known: {', '.join(HUBS)}")
    return HUBS[kind].open(location)


def described(publication: Publication) -> dict[str, Any]:
    """Returns the body of a `published` event."""
    return {
        "hub": publication.hub,
        "slug": publication.slug,
        "location": publication.location,
        "manifest_sha256": publication.manifest_sha256,
        "files": [{"name": name, "sha256": sha256} for name, sha256 in publication.files],
    }


def _publish(item: Released, place: OpenHub) -> Published:
    folder = Path(item["folder"])
    done = attempt(lambda: described(_put(folder, place)))
    crash_point(AFTER_HUB_PUBLISHED)
    tick("publish")
    if isinstance(done, Ended):
        return Published(entry_key=item["entry_key"], conversion_id=item["conversion_id"], body=None, ended=done)
    shutil.rmtree(folder, ignore_errors=True)  # the hub has it now; the converted files stay where they are
    return Published(entry_key=item["entry_key"], conversion_id=item["conversion_id"], body=done, ended=None)


def _put(folder: Path, place: OpenHub) -> Publication:
    release = open_release(folder)
    require_publishable_release(release)
    return place.publish(release)
