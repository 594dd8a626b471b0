"""The last stage of a migration: intend, publish, confirm, so that a crash at any point publishes nothing twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from catalogs.errors import NOT_PASSED, NOT_SCORED
from catalogs.ledger import Fact
from catalogs.provenance import conversion_record
from flows.journal import changed
from flows.outcomes import outcome, outcome_of_ending, verdict_on
from flows.run import Run
from flows.stages import paired
from flows.states import FAILED, PASSED, PUBLISHED, REJECTED
from flows.to_do import Item, hub_of, unconfirmed
from tasks.border import Ended
from tasks.crash_points import AFTER_INTENT, AFTER_PUBLISHED, crash_point
from tasks.publish import publish
from tasks.publishing import find_published
from tasks.release import release
from tasks.releasing import Released, ReleaseItem

PUBLISH_SHARD = 8
"""Conversions per task run."""


def reconcile(run: Run) -> None:
    """Notes publications that a killed run made without confirming them."""
    found = unconfirmed(run.journal, run.migration, run.folders)
    run.record([("published", name, body) for name, body in sorted(found.items())])
    if found:
        run.watcher.say(f"{len(found)} publications of an earlier run are on the hub and confirmed now")


def publish_conversions(run: Run, items: Sequence[Item]) -> None:
    """Publishes what may be published: look, build, intend, publish, confirm. The rest is settled as passed."""
    allowed = [item for item in items if item.found["decision"]["publish"]]
    run.record([_not_allowed(item) for item in items if not item.found["decision"]["publish"]])
    there = find_published([str(item.conversion_id) for item in allowed], **hub_of(run.migration, run.folders))
    _confirm(run, [(item, {"body": there[str(item.conversion_id)]}) for item in allowed if item.conversion_id in there])
    releases = _build_releases(run, [item for item in allowed if item.conversion_id not in there])
    _intend(run, list(releases.values()))

    def settle(shard: Sequence[Item], records: list[Any] | Ended) -> None:
        _confirm(run, paired(shard, records))

    run.shards(
        "publish",
        publish,
        [item for item in allowed if item.key in releases],
        size=PUBLISH_SHARD,
        arguments=lambda shard: {
            "items": [releases[item.key] for item in shard],
            **hub_of(run.migration, run.folders),
        },
        settle=settle,
    )


def _intend(run: Run, releases: Sequence[Released]) -> None:
    """Writes down what is about to be published, so that the next run knows what to look for after a crash."""
    hub = hub_of(run.migration, run.folders)
    run.record(
        [
            (
                "publication_intended",
                one["conversion_id"],
                {**hub, "slug": one["title"], "manifest_sha256": one["manifest_sha256"]},
            )
            for one in releases
        ]
    )
    crash_point(AFTER_INTENT)


def _confirm(run: Run, pairs: Sequence[tuple[Item, dict[str, Any]]]) -> None:
    """Writes down what is on the hub, then how its entries ended."""
    if not pairs:
        return
    published: list[Fact] = [
        ("published", str(item.conversion_id), record["body"]) for item, record in pairs if record.get("body")
    ]
    run.record(changed(published, run.journal.publications()))
    crash_point(AFTER_PUBLISHED)
    run.record([_published(item, record) for item, record in pairs])


def _build_releases(run: Run, items: Sequence[Item]) -> dict[str, Released]:
    """Returns the releases that could be built, by entry key; the others are settled as failed."""
    built: dict[str, Released] = {}

    def settle(shard: Sequence[Item], records: list[Any] | Ended) -> None:
        for item, record in paired(shard, records):
            if record["ended"] is None:
                built[item.key] = cast("Released", record)
            else:
                run.record([_not_published(item, record["ended"])])

    run.shards(
        "release",
        release,
        items,
        size=PUBLISH_SHARD,
        arguments=lambda shard: {
            "items": [_to_release(run, item) for item in shard],
            "conversions": str(run.folders.conversions),
        },
        settle=settle,
    )
    return built


def _to_release(run: Run, item: Item) -> ReleaseItem:
    record = conversion_record(run.ledger, str(item.conversion_id))
    target = run.migration.bases[record.target]
    drawn = item.scored.get("images") if item.scored else None
    image = run.folders.data / drawn if drawn else None
    return ReleaseItem(
        entry_key=item.key,
        record=record,
        title=f"{item.name} for {record.target}",
        base_model=next((label for label in target.labels if "/" in label), record.target),
        image=str(image) if image is not None and image.is_file() else None,
    )


def _published(item: Item, record: Mapping[str, Any]) -> Fact:
    if record.get("body"):
        text = f"{_verdict_on(item)}; published at {record['body']['slug']}"
        return outcome(item, PUBLISHED, "gate-passed", text)
    return _not_published(item, record["ended"])


def _not_published(item: Item, why: Ended) -> Fact:
    """Failed, and tried again, unless nothing but other figures would help."""
    return outcome_of_ending(item, why, state=REJECTED if why.reason in {NOT_SCORED, NOT_PASSED} else FAILED)


def _not_allowed(item: Item) -> Fact:
    private = "; ".join(text for _, text in item.found["decision"]["reasons"])
    return outcome(item, PASSED, "publish-not-allowed", f"{_verdict_on(item)}, but is not published: {private}")


def _verdict_on(item: Item) -> str:
    return verdict_on(item)[1]
