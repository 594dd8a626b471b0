"""Finds the stacked layers of a transformer in its site names, whatever the model calls them, and pairs them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.correspondence import NO_BLOCK, NO_SITE, Aligner, Stack

Place = tuple[str, str]
"""Component and path of a stack."""

_NUMBERED = re.compile(r"(\D*?)\.(\d+)\.(.+)")


def stacks_of(sites: Iterable[Site]) -> dict[Place, Stack]:
    """Lists the stacks: names whose first number counts 0, 1, 2 … without a hole, at least two of them."""
    numbers: dict[Place, set[int]] = defaultdict(set)
    for site in sites:
        if found := _NUMBERED.fullmatch(site.path):
            numbers[site.component, found[1]].add(int(found[2]))
    return {
        place: Stack(*place, len(seen))
        for place, seen in numbers.items()
        if len(seen) > 1 and seen == set(range(len(seen)))
    }


def same_depths(source: Sequence[Site], target: Sequence[Site]) -> bool:
    """Tells whether every stack that both have is equally deep in both."""
    here, there = stacks_of(source), stacks_of(target)
    return all(here[place].depth == stack.depth for place, stack in there.items() if place in here)


def match_stacks(
    source: BaseModel,
    sites: Sequence[Site],
    align: Aligner,
    counterpart: Callable[[Site], Site | str | None] = lambda _site: None,
) -> dict[Site, Site | str]:
    """Gives each of the target's `sites` the source site of the same name in the layer that its own is aligned with.

    counterpart(source site that was looked for and is not there): another source site, or the reason why there is none.
    """
    here, there = stacks_of(source.sites), stacks_of(sites)
    aligned = {place: align(here[place], stack) for place, stack in there.items() if place in here}
    found: dict[Site, Site | str] = {}
    for site in sites:
        wanted = _moved(site, aligned)
        if isinstance(wanted, Site) and wanted not in source.sites:
            found[site] = counterpart(wanted) or NO_SITE
        else:
            found[site] = wanted
    return found


def _moved(site: Site, aligned: dict[Place, tuple[int | None, ...]]) -> Site | str:
    """The name that a site would have in the source; the reason where its layer has none there."""
    numbered = _NUMBERED.fullmatch(site.path)
    if numbered is None or (site.component, numbered[1]) not in aligned:
        return site
    number = aligned[site.component, numbered[1]][int(numbered[2])]
    return NO_BLOCK if number is None else Site(site.component, f"{numbered[1]}.{number}.{numbered[3]}")
