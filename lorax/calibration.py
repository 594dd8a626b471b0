"""Runs a probe through both bases of a pair and sums what methods that need activations know of every site.

The rows of the second half of every batch are summed apart as well: fitted on one half, judged on the other.

Cost per probe row: one forward and `directions` backward passes of each base; memory: the activations of one batch and
eight matrices per pair of sites; `lorax.grouped_statistics` asks for some sites at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lorax.adapter import Site
from lorax.method import SiteStatistics
from lorax.probe import Probe
from lorax.running_model import RunningModel


@dataclass(slots=True)
class Heard:
    """What one module saw in one batch: rows of inputs (n, in), and its output tensor, still in the graph."""

    inputs: Tensor
    output: Tensor


def collect_statistics(
    source: RunningModel,
    target: RunningModel,
    *,
    pairs: Mapping[Site, Site],
    probe: Probe,
    directions: int = 2,
    batch: int = 40,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[Site, SiteStatistics]:
    """Returns the summed statistics of each target site in `pairs` (target site -> source site)."""
    generator = torch.Generator().manual_seed(0)
    sums: dict[Site, SiteStatistics] = {}
    batches = probe.batches(min(model.rows_with_gradients(batch) for model in (source, target)))
    for done, rows in enumerate(batches, start=1):
        pulls = partial(source.pulls, probe=probe, rows=rows, count=directions, generator=generator)
        here, chosen = _listen(source, sorted(set(pairs.values())), probe=probe, rows=rows, pulls=pulls)
        there, _ = _listen(target, sorted(pairs), probe=probe, rows=rows, pulls=partial(_same, chosen))
        for site, origin in pairs.items():
            if site in there and origin in here:
                _add(sums, site, there[site], here[origin])
        progress(done, len(batches))
    return {site: found.on("cpu") for site, found in sums.items()}


def _same(pulls: list[Tensor], _output: Tensor) -> list[Tensor]:
    return pulls


def _listen(
    model: RunningModel, sites: list[Site], *, probe: Probe, rows: slice, pulls: Callable[[Tensor], list[Tensor]]
) -> tuple[dict[Site, tuple[Tensor, Tensor]], list[Tensor]]:
    """Returns inputs (n, in) and gradients (directions, n, out) of each site's module for one batch, and the pulls.

    The gradient is of <pull, model output> with respect to the module's output; pulls(output) are the same for both
    bases, so the two gradients speak about the same change of what the model says.
    """
    heard: dict[Site, Heard] = {}
    with model.listening({site: _recorder(heard, site) for site in sites if model.module(site) is not None}):
        output = model.run(probe, rows)
    chosen = pulls(output)
    reached = [site for site in sites if site in heard and heard[site].output.requires_grad]
    outputs = [heard[site].output for site in reached]
    gradients: dict[Site, list[Tensor]] = {site: [] for site in reached}
    for index, pull in enumerate(chosen):
        pulled = torch.autograd.grad(
            (output * pull.to(output.device)).sum(), outputs, retain_graph=index + 1 < len(chosen), allow_unused=True
        )
        for site, gradient in zip(reached, pulled, strict=True):
            if gradient is not None:
                gradients[site].append(as_rows(gradient))
    found = {site: (heard[site].inputs, torch.stack(gradients[site])) for site in reached if gradients[site]}
    return found, chosen


def _recorder(heard: dict[Site, Heard], site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        heard[site] = Heard(as_rows(inputs[0].detach()), output)

    return record


def as_rows(activation: Tensor) -> Tensor:
    """Returns (n, c, [t,] h, w) or (..., width) as rows of features, float32: (n·t·h·w, c) or (n, width)."""
    if activation.dim() >= 4:
        activation = activation.movedim(1, -1)
    return activation.flatten(0, -2).float()


def _add(
    sums: dict[Site, SiteStatistics], site: Site, there: tuple[Tensor, Tensor], here: tuple[Tensor, Tensor]
) -> None:
    """Adds one batch's Gram and cross products to a site's sums, its second half to those that are held out."""
    (inputs_t, gradients_t), (inputs_s, gradients_s) = there, here
    if len(inputs_t) != len(inputs_s) or gradients_t.shape[:2] != gradients_s.shape[:2]:
        return  # pictures of different size (another stride): rows cannot be paired
    halves = [
        _products(
            *(_half(rows, second=second).flatten(0, -2) for rows in (inputs_t, inputs_s, gradients_t, gradients_s))
        )
        for second in (False, True)
    ]
    found = halves[0].plus(replace(halves[1], held_out=halves[1]))
    sums[site] = sums[site].plus(found) if site in sums else found


def _half(rows: Tensor, *, second: bool) -> Tensor:
    """Returns the first or second half of the rows, (..., n, width)."""
    middle = rows.shape[-2] // 2
    return rows[..., middle:, :] if second else rows[..., :middle, :]


def _products(inputs_t: Tensor, inputs_s: Tensor, gradients_t: Tensor, gradients_s: Tensor) -> SiteStatistics:
    return SiteStatistics(
        input_gram=_double(inputs_t.T @ inputs_t),
        input_cross=_double(inputs_t.T @ inputs_s),
        output_gram=_double(gradients_t.T @ gradients_t),
        output_cross=_double(gradients_t.T @ gradients_s),
        input_energy=float(inputs_s.square().sum()),
        output_energy=float(gradients_s.square().sum()),
    )


def _double(product: Tensor) -> Tensor:
    """A product in float64, on the CPU where the accelerator has none."""
    return (product.cpu() if product.device.type == "mps" else product).double()
