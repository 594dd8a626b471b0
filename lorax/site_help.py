"""Which sites of an adapter help by themselves, to first order: what a small step along each update would do.

At a plain model, the divergence D from source+adapter falls at the rate h_i when the update of site i is faded in. In a
sound conversion nearly all of the effect points the same way; where updates lie at the wrong sites, about half of it
points the other way, whatever their sum does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lorax.adapter import Adapter
from lorax.probe import Probe, slices
from lorax.running_model import Hook, RunningModel

Part = Sequence[tuple[slice, Tensor]]
"""Rows of a probe that are run at once, and what source+adapter says to them, (rows, features)."""


def help_by_site(model: RunningModel, adapter: Adapter, probe: Probe, parts: Sequence[Part]) -> Tensor:
    """Returns -dD/dt_i at t = 0, where t_i scales the update of site i, summed over each part: (parts, sites).

    Sites are in sorted order, those that are no module of the model left out. Cost: one forward and one backward run of
    the plain model for all rows, whatever the number of sites.
    """
    sites = [site for site in sorted(adapter.updates) if model.module(site) is not None]
    fades = torch.zeros(len(sites), device=model.device, requires_grad=True)
    hooks = {
        site: partial(_faded, hook=model.hook_of(site, adapter.updates[site]), fade=fades[number])
        for number, site in enumerate(sites)
    }
    found = torch.zeros(len(parts), len(sites), device=model.device)
    with model.frozen(), model.listening(hooks), torch.enable_grad():
        for number, part in enumerate(parts):
            for rows, said in part:
                divergence = model.geometry.divergence(said, model.run(probe, rows)).sum()
                (slope,) = torch.autograd.grad(divergence, fades)
                found[number] -= slope
    return found.double().cpu()


def parted(model: RunningModel, probe: Probe, *, samples: int, parts: int) -> list[list[slice]]:
    """Returns the first samples of a probe in parts of about equal size, each cut to what can be run with gradients."""
    rows_each = len(probe.batches(1)) // (int(probe.group.max()) + 1)
    size = -(-samples // min(parts, samples))
    most = model.rows_with_gradients(size * rows_each)
    return [
        [slice(part.start * rows_each + rows.start, part.start * rows_each + rows.stop) for rows in cut]
        for part in slices(samples, size)
        for cut in [slices((part.stop - part.start) * rows_each, most)]
    ]


def _faded(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, hook: Hook, fade: Tensor) -> Tensor:
    """Adds the update's change of a module's output times `fade`, which is 0: only the slope is of interest."""
    with torch.no_grad():
        changed = hook(module, inputs, output)
        change = torch.zeros_like(output) if changed is None else changed - output
    return output + fade * change
