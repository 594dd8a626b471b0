"""What holds on a CPU holds on an accelerator, within float32. Skips itself where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.convert import Conversion, convert_adapters
from lorax.prepare import prepare_plan
from lorax.score import ScoreBench
from tests.stand_ins.pairs import SETTINGS
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
]


def test_plans_and_scores_agree_with_those_of_the_cpu(tmp_path: Path) -> None:
    source = make_base(tmp_path / "tiny-v1", seed=1)
    target = nudged(source, tmp_path / "tiny-v2", seed=2)
    checkpoints = [open_checkpoint(folder, name=folder.name) for folder in (source, target)]
    adapter = make_adapter(checkpoints[0].base)
    gains = []
    for device in ("cpu", "cuda"):
        plan = prepare_plan(*checkpoints, method="calibrated", settings={}, probe=SETTINGS, device=device)
        (found,) = convert_adapters(plan, [adapter], target=checkpoints[1].base)
        assert isinstance(found, Conversion)
        bench = ScoreBench.open(source, target, settings=SETTINGS, device=device)
        gains.append(bench.score(adapter, {"converted": found.adapter}).figures["converted"]["divergence_gain"].value)

    assert gains[0] == pytest.approx(gains[1], abs=0.01)
