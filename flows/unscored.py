"""What becomes of conversions that nothing can be measured of: they are kept, and never published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.errors import NOT_SCORED
from flows.outcomes import outcome
from flows.run import Run
from flows.settings import Migration, PairTable
from flows.states import REJECTED
from flows.to_do import Item, base_folders
from lorax.errors import Stop
from lorax.methods import METHODS
from lorax.plan import method_named
from tasks.bases import open_base, why_not_runnable
from tasks.conversion import staged_files
from tasks.planning import PreparedPair


def settle_unscored(run: Run, prepared: PreparedPair, items: Sequence[Item]) -> None:
    """Settles conversions of a pair one of whose bases cannot be run.

    They end as rejected: a gate that has nothing to look at does not open. When the base gets a folder that can be run,
    its entries are other work, and all of this is done again with scores.
    """
    bodies = run.journal.conversions()
    run.record([outcome(item, REJECTED, NOT_SCORED, _told(run, prepared, item, bodies)) for item in items])


def not_runnable(migration: Migration, pair: PairTable) -> dict[str, str]:
    """Returns why bases of a pair cannot be run, by name; nothing where all can. Raises lorax.errors.Stop."""
    bases = {base["name"]: base for base in base_folders(migration)}
    found = {name: why_not_runnable(open_base(bases[name])) for name in (pair.source, pair.target)}
    return {name: why for name, why in found.items() if why}


def require_runnable(migration: Migration) -> None:
    """Passes where every pair whose method has to run its bases can run them; else raises lorax.errors.Stop."""
    for number, pair in enumerate(migration.pairs, start=1):
        if method_named(pair.method).needs == "activations" and (unfit := not_runnable(migration, pair)):
            ready = [one.name for one in METHODS.values() if one.needs != "activations" and not one.is_control]
            raise Stop(
                f"[[pairs]] number {number}: method {pair.method!r} needs activations: it runs both bases on a probe, "
                f"but {_unfit(unfit)}; give folders that can be run, or take a method that does not: {', '.join(ready)}"
            )


def why_not_scored(unfit: Mapping[str, str]) -> str:
    """Words why nothing was measured. unfit: why bases cannot be run, by name."""
    return f"not scored, so never published: {_unfit(unfit)}"


def _unfit(unfit: Mapping[str, str]) -> str:
    return " and ".join(f"{name} cannot be run ({why})" for name, why in unfit.items())


def _told(run: Run, prepared: PreparedPair, item: Item, bodies: Mapping[str, Mapping[str, Any]]) -> str:
    name = str(item.conversion_id)
    body = bodies[name]
    folder = staged_files(run.folders.conversions, name).relative_to(run.folders.data)
    return (
        f"converted by {prepared['method']}, {why_not_scored(prepared['not_runnable'])}; "
        f"{body['sites_mapped']} of {body['sites_total']} sites have a home in {prepared['target']}, "
        f"{body['dropped_norm_share']:.1%} of the squared norm has none; the files lie in {folder.as_posix()}"
    )
