"""Compiles a method for a base pair into a plan, one site's weights in memory at a time.

`compile_plan` gives the plan in memory, `compile_to` writes it to disk: then each site's operators are put into a piece
of their own as soon as they are known, in a folder beside the plan, and the pieces become the plan file at the end. So
memory holds one site whatever the depth of the model, and a compilation that was killed goes on where it stopped. Both
ways give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lorax.adapter import Site
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.decoder_pair import DecoderPair
from lorax.errors import Stop
from lorax.method import Method, NoTerm, Setting, SiteInputs, SiteStatistics
from lorax.placement import term_on
from lorax.plan import Plan, PlanHead, PlannedSite, merged_settings, method_named, plan_key
from lorax.plan_pieces import Pieces

Progress = Callable[[int, int], None]
Statistics = Mapping[Site, SiteStatistics]


def _quiet(_done: int, _total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Compilation:
    """Is what there is to compile: a method with all its settings, two bases, and the target's sites in their order.

    matches: each target site with the source site that feeds it, or the reason why none does; decoders: the two bases
    as language models, where they are some.
    """

    source: Checkpoint
    target: Checkpoint
    method: Method
    head: PlanHead
    matches: Sequence[tuple[Site, Site | str]]
    decoders: DecoderPair | None = None

    def site(self, index: int, statistics: Statistics) -> PlannedSite:
        """Compiles one site. Raises Stop when the method needs activations and the site has none for want of them."""
        site, origin = self.matches[index]
        if isinstance(origin, str):
            return PlannedSite(site, None, None, reason=origin)
        known = statistics.get(site)
        inputs = SiteInputs(
            target=site,
            source=origin,
            target_shape=self.target.base.sites[site],
            source_shape=self.source.base.sites[origin],
            target_weight=partial(self.target.weight, site),
            source_weight=partial(self.source.weight, origin),
            statistics=known.on(self.target.device) if known is not None else None,
            generator=torch.Generator().manual_seed(_seed_for(self.method.name, site)),
            decoders=self.decoders.around(site, origin) if self.decoders is not None else None,
        )
        found = self.method.compile_site(inputs, self.head.settings)
        if isinstance(found, NoTerm):
            return PlannedSite(site, origin, None, reason=found.reason)
        # Plans are kept in main memory; `Plan.on` moves a whole one.
        return PlannedSite(site, origin, found if self.target.device == "cpu" else term_on(found, "cpu"))


def compilation(
    source: Checkpoint, target: Checkpoint, *, method: str, settings: Mapping[str, Setting], probe_id: str = ""
) -> Compilation:
    """Returns what there is to compile. Raises Stop for an unknown method or setting.

    probe_id: names the probe that statistics are taken on; only methods that need activations heed it.
    """
    chosen = method_named(method)
    head = PlanHead(
        key=plan_key(source.base, target.base, method=method, settings=settings, probe_id=probe_id),
        method=chosen.name,
        settings=merged_settings(chosen, settings),
        source_base=source.base,
        target_base=target.base,
    )
    matches = sorted(pairing(source, target).items())
    return Compilation(source, target, chosen, head, matches, DecoderPair.of(source, target))


def compile_plan(
    source: Checkpoint,
    target: Checkpoint,
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe_id: str = "",
    statistics: Statistics | None = None,
    progress: Progress = _quiet,
) -> Plan:
    """Returns the plan of `method` for (source, target), in memory.

    `statistics` come from `lorax.calibration.collect_statistics`, `probe_id` names the probe they were taken on; only
    methods that need activations ask for them. Raises Stop for an unknown method or setting, or missing statistics.
    """
    work = compilation(source, target, method=method, settings=settings, probe_id=probe_id)
    return compiled(work, statistics=statistics, progress=progress)


def compiled(work: Compilation, *, statistics: Statistics | None = None, progress: Progress = _quiet) -> Plan:
    """Returns the plan of what there is to compile, in memory. Raises Stop for missing statistics."""
    known = _required(work, statistics)
    sites = _counted((work.site(index, known) for index in range(len(work.matches))), len(work.matches), progress)
    return Plan(work.head, tuple(sites))


def compile_to(
    out: Path, work: Compilation, *, statistics: Callable[[], Statistics] | None = None, progress: Progress = _quiet
) -> Path:
    """Writes the plan, site by site, and returns its path.

    out: a file (*.safetensors), or a folder, in which the plan is named by its sha256; statistics: asked for once, and
    only if the method needs them and a site is missing. What an earlier call with the same key left is gone on with.
    Raises Stop for missing statistics, OSError when the disk refuses.
    """
    pieces = Pieces.beside(out, work.head)
    missing = [index for index, (site, _) in enumerate(work.matches) if not pieces.has(index, site)]
    wanted = work.method.needs == "activations" and missing
    known = _required(work, statistics() if wanted and statistics is not None else None) if missing else {}
    progress(len(work.matches) - len(missing), len(work.matches))
    for done, index in enumerate(missing, start=len(work.matches) - len(missing) + 1):
        pieces.put(index, work.site(index, known))
        progress(done, len(work.matches))
    return pieces.join(out, count=len(work.matches))


def _required(work: Compilation, statistics: Statistics | None) -> Statistics:
    if work.method.needs == "activations" and statistics is None:
        name = work.method.name
        raise Stop(f"Method {name!r} needs a probe's activations, and none were given. Compile with a probe.")
    return statistics or {}


def _counted(sites: Iterator[PlannedSite], total: int, progress: Progress) -> Iterator[PlannedSite]:
    for done, site in enumerate(sites, start=1):
        yield site
        progress(done, total)


def _seed_for(method: str, site: Site) -> int:
    """Returns a seed that belongs to the site, so that a plan does not depend on the order of compilation."""
    return int.from_bytes(hashlib.sha256(f"{method} {site}".encode()).digest()[:6], "big")
