"""What becomes of conversions that nothing can be measured of: they are kept, and never published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.errors import NOT_SCORED
from flows.outcomes import outcome
from flows.run import Run
from flows.settings import Migration, PairTable
from flows.states import REJECTED
from flows.to_do import Item
from tasks.conversion import staged_files
from tasks.planning import PreparedPair


def settle_unscored(run: Run, prepared: PreparedPair, items: Sequence[Item]) -> None:
    """Settles conversions of a pair that cannot be run, because there are no weights of one of its bases.

    They end as rejected: a gate that has nothing to look at does not open. When the base gets a path, its entries are
    other work, and all of this is done again with scores.
    """
    bodies = run.journal.conversions()
    run.record([outcome(item, REJECTED, NOT_SCORED, _told(run, prepared, item, bodies)) for item in items])


def without_weights(migration: Migration, pair: PairTable) -> list[str]:
    """Returns which bases of a pair are known by name alone, as far as the settings tell."""
    return [name for name in (pair.source, pair.target) if migration.bases[name].path is None]


def why_not_scored(without_weights: Sequence[str]) -> str:
    """Words why nothing was measured, and what would change that."""
    bases = " and ".join(without_weights)
    return (
        f"not scored, so never published: {bases} {'is' if len(without_weights) == 1 else 'are'} known by name alone, "
        "and what has no weights cannot be run"
    )


def _told(run: Run, prepared: PreparedPair, item: Item, bodies: Mapping[str, Mapping[str, Any]]) -> str:
    name = str(item.conversion_id)
    body = bodies[name]
    folder = staged_files(run.folders.conversions, name).relative_to(run.folders.data)
    return (
        f"converted by {prepared['method']}, {why_not_scored(prepared['without_weights'])}; "
        f"{body['sites_mapped']} of {body['sites_total']} sites have a home in {prepared['target']}, "
        f"{body['dropped_norm_share']:.1%} of the squared norm has none; the files lie in {folder.as_posix()}"
    )
