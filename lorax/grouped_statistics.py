"""Statistics of sites, gathered for as many at once as memory allows: a base has more sites than their sums have room.

A site of a 7B model (4096 by 4096) takes a gigabyte of sums, and there are hundreds. So the probe runs once for each
group of sites, in the order in which a plan is compiled; small bases are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lorax.adapter import Site, SiteShape
from lorax.method import SiteStatistics

ROOM = 4 << 30
"""Bytes of sums that are held at once, unless one site alone needs more."""
_FLOAT64 = 8
_HALVES = 2

Collect = Callable[[Sequence[Site]], Mapping[Site, SiteStatistics]]


class GroupedStatistics(Mapping[Site, SiteStatistics]):
    """Is the statistics of all sites of `sizes`, of which one group is there at a time.

    sizes: bytes that the sums of a site take, in the order in which they will be asked for; collect(sites): runs the
    probe for some of them. Asking for a site of another group lets go of the one before.
    """

    def __init__(self, sizes: Mapping[Site, int], collect: Collect, *, room: int = ROOM) -> None:
        self._collect = collect
        self._groups = list(_groups(sizes, room))
        self._group_of = {site: index for index, group in enumerate(self._groups) for site in group}
        self._now: int | None = None
        self._held: Mapping[Site, SiteStatistics] = {}

    @property
    def passes(self) -> int:
        """Number of times that the probe runs when every site is asked for in order."""
        return len(self._groups)

    def __getitem__(self, site: Site) -> SiteStatistics:
        group = self._group_of[site]
        if group != self._now:
            self._held = {}  # before the next group is gathered, or both would be in memory
            self._held, self._now = self._collect(self._groups[group]), group
        return self._held[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._group_of)

    def __len__(self) -> int:
        return len(self._group_of)


def bytes_of(target: SiteShape, source: SiteShape) -> int:
    """Returns how many bytes the statistics of a pair of sites take: two sums per side, of all rows and of a half."""
    inputs = target.in_features * (target.in_features + source.in_features)
    outputs = target.out_features * (target.out_features + source.out_features)
    return _HALVES * _FLOAT64 * (inputs + outputs)


def _groups(sizes: Mapping[Site, int], room: int) -> Iterator[list[Site]]:
    group: list[Site] = []
    used = 0
    for site, size in sizes.items():
        if group and used + size > room:
            yield group
            group, used = [], 0
        group.append(site)
        used += size
    if group:
        yield group
