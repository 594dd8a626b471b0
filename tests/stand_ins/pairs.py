"""Pytest fixtures around tiny base pairs; import the names you use into a test module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lorax.calibration import collect_statistics
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.compile import compile_plan
from lorax.diffusion_model import DiffusionModel, LatentProbe, load_diffusion_model
from lorax.method import Setting, SiteStatistics
from lorax.methods import METHODS
from lorax.plan import Plan
from lorax.probe import ProbeSettings
from lorax.probes import PROBES
from tests.stand_ins.tiny_bases import make_base, nudged

SETTINGS = ProbeSettings(prompts=("a digit", "a handwritten one"), samples=4, timesteps=(100, 500, 900), steps=2)


@dataclass(frozen=True)
class Pair:
    """Two bases at hand as checkpoints and as models, with a probe."""

    source: Checkpoint
    target: Checkpoint
    source_model: DiffusionModel
    target_model: DiffusionModel
    probe: LatentProbe

    def statistics(self) -> dict[object, SiteStatistics]:
        """Returns what `calibrated` needs."""
        shared = {site: site for site in self.target.base.sites}
        return collect_statistics(self.source_model, self.target_model, pairs=shared, probe=self.probe)  # type: ignore[return-value]

    def plan(self, method: str, settings: dict[str, Setting] | None = None) -> Plan:
        """Compiles a plan for this pair."""
        needed = method in METHODS and METHODS[method].needs == "activations"
        statistics = self.statistics() if needed else None
        return compile_plan(
            self.source,
            self.target,
            method=method,
            settings=settings or {},
            probe_id="tiny",
            statistics=statistics,  # type: ignore[arg-type]
        )


def open_pair(source: Path, target: Path) -> Pair:
    """Opens two base folders as a pair."""
    models = [load_diffusion_model(folder) for folder in (source, target)]
    probe = PROBES["neutral"].draw(models[0], models[1], None, SETTINGS)
    checkpoints = [open_checkpoint(folder, name=folder.name) for folder in (source, target)]
    assert isinstance(probe, LatentProbe)
    return Pair(checkpoints[0], checkpoints[1], models[0], models[1], probe)


@pytest.fixture(scope="session")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Returns a base and a later checkpoint of it."""
    folder = tmp_path_factory.mktemp("lineage")
    source = make_base(folder / "tiny-v1", seed=1)
    return open_pair(source, nudged(source, folder / "tiny-v2", seed=2))


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Returns a base paired with itself."""
    source = make_base(tmp_path_factory.mktemp("twins") / "tiny-v1", seed=1)
    return open_pair(source, source)


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Returns two bases of one shape that have nothing else in common."""
    folder = tmp_path_factory.mktemp("strangers")
    return open_pair(make_base(folder / "tiny-v1", seed=1), make_base(folder / "tiny-other", seed=7))
