"""From two bases and a method's name to a plan; draws a probe and runs both bases only where the method needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorax.adapter import Site
from lorax.calibration import collect_statistics
from lorax.checkpoint import Checkpoint
from lorax.compile import Compilation, compilation, compile_to, compiled
from lorax.grouped_statistics import GroupedStatistics, bytes_of
from lorax.load_model import load_pair
from lorax.method import Setting, SiteStatistics
from lorax.plan import Plan, plan_key
from lorax.probe import ProbeSettings
from lorax.probes import PROBES

Progress = Callable[[str, int, int], None]


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Reports nothing."""


def calibration_probe(settings: ProbeSettings) -> ProbeSettings:
    """Returns settings for a calibration probe: as for scoring, on other noise, so that no score is fitted."""
    return replace(settings, seed=settings.seed + 1000)


def key_for(
    source: Checkpoint,
    target: Checkpoint,
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe: ProbeSettings,
) -> str:
    """Returns the plan key that `prepare_plan` with the same arguments will give its plan."""
    return plan_key(
        source.base, target.base, method=method, settings=settings, probe_id=_probe_id(source, target, probe)
    )


def prepare_plan(
    source: Checkpoint,
    target: Checkpoint,
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe: ProbeSettings,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Plan:
    """Returns the compiled plan. Raises Stop for an unknown method or setting, or a base that does not open."""
    work = _work(source, target, method, settings, probe, device)
    needed = work.method.needs == "activations"
    return compiled(
        work,
        statistics=_statistics(work, probe, device, progress) if needed else None,
        progress=lambda done, total: progress("compile", done, total),
    )


def prepare_plan_file(
    out: Path,
    source: Checkpoint,
    target: Checkpoint,
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe: ProbeSettings,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Path:
    """Writes the compiled plan, one site in memory at a time, and returns its path; raises as `prepare_plan` does.

    out: a file (*.safetensors), or a folder, in which the plan is named by its sha256. A call that was killed is gone
    on with by the next one that has the same arguments.
    """
    work = _work(source, target, method, settings, probe, device)
    return compile_to(
        out,
        work,
        statistics=lambda: _statistics(work, probe, device, progress),
        progress=lambda done, total: progress("compile", done, total),
    )


def _work(
    source: Checkpoint,
    target: Checkpoint,
    method: str,
    settings: Mapping[str, Setting],
    probe: ProbeSettings,
    device: str,
) -> Compilation:
    bases = _computing(source, target, device)
    return compilation(*bases, method=method, settings=settings, probe_id=_probe_id(source, target, probe))


def _computing(source: Checkpoint, target: Checkpoint, device: str) -> tuple[Checkpoint, Checkpoint]:
    """The bases with their weights on the device that decomposes them: not MPS, which has no float64."""
    chosen = device if device.startswith("cuda") else "cpu"
    return replace(source, device=chosen), replace(target, device=chosen)


def _probe_id(source: Checkpoint, target: Checkpoint, probe: ProbeSettings) -> str:
    return calibration_probe(probe).identity(source.base.fingerprint, target.base.fingerprint)


def _statistics(work: Compilation, probe: ProbeSettings, device: str, progress: Progress) -> GroupedStatistics:
    """The statistics of the sites that a plan pairs, gathered when they are asked for."""
    source, target = work.source, work.target
    models = load_pair(source.folder, target.folder, device=device)
    drawn = PROBES["neutral"].draw(models[0], models[1], None, calibration_probe(probe))
    pairs = {site: origin for site, origin in work.matches if isinstance(origin, Site)}

    def collect(sites: Sequence[Site]) -> dict[Site, SiteStatistics]:
        return collect_statistics(
            models[0],
            models[1],
            pairs={site: pairs[site] for site in sites},
            probe=drawn,
            progress=lambda done, total: progress("calibrate", done, total),
        )

    sizes = {site: bytes_of(target.base.sites[site], source.base.sites[origin]) for site, origin in pairs.items()}
    return GroupedStatistics(sizes, collect)
