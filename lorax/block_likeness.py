"""Aligns stacked blocks by the likeness of their weights, in order: a dynamic program over cosines.

Blocks that one base was cut out of another with still point the same way, and blocks that were never the same are
nearly orthogonal, so the cosine of two weights as vectors tells them apart. Of each weight an even sample is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.adapter import Site
from lorax.checkpoint import Checkpoint
from lorax.correspondence import Aligner, Stack, evenly

VERSION = 1
"""Belongs to the key of every plan between bases with weights: raise it whenever stacks are paired in another way."""
SAMPLE = 2**16
"""Entries of a weight that its cosine is estimated from; the standard error is then at most 0.004."""
LEAST_LIKENESS = 0.1
"""Mean cosine below which two stacks say nothing about each other, and the even spread is used."""


def by_likeness(source: Checkpoint, target: Checkpoint) -> Aligner:
    """Gives an aligner that looks at the weights, one at a time.

    Stacks of equal depth are paired one to one, and so are, evenly, stacks that are not alike (another training,
    another width). Else the rising pairing with the largest sum of mean cosines is taken.
    """

    def align(here: Stack, there: Stack) -> tuple[int | None, ...]:
        if here.depth == there.depth:
            return evenly(here, there)
        likeness = _likeness(source, target, here, there)
        found = best_rising(likeness)
        pairs = [float(likeness[block, number]) for number, block in enumerate(found) if block is not None]
        return found if sum(pairs) / len(pairs) >= LEAST_LIKENESS else evenly(here, there)

    return align


def best_rising(likeness: Tensor) -> tuple[int | None, ...]:
    """Gives, for likeness (source blocks, target blocks), the source block of each target block, rising.

    As many pairs as the shorter stack has blocks, so that their sum is the largest there is; ties go to the lower
    block.
    """
    blocks, numbers = likeness.shape
    if blocks < numbers:
        fed = {block: number for number, block in enumerate(best_rising(likeness.T)) if block is not None}
        return tuple(fed.get(number) for number in range(numbers))
    # best[n][b]: the largest sum for the first n target blocks within the first b source blocks.
    best = torch.full((numbers + 1, blocks + 1), -torch.inf, dtype=torch.float64)
    best[0] = 0.0
    for number in range(1, numbers + 1):
        for block in range(number, blocks + 1):
            taken = best[number - 1, block - 1] + likeness[block - 1, number - 1]
            best[number, block] = torch.maximum(best[number, block - 1], taken)
    found: list[int] = []
    block = blocks
    for number in range(numbers, 0, -1):
        while best[number, block - 1] == best[number, block]:
            block -= 1
        block -= 1
        found.append(block)
    return tuple(reversed(found))


def _likeness(source: Checkpoint, target: Checkpoint, here: Stack, there: Stack) -> Tensor:
    """Mean cosines (source blocks, target blocks) over the weights that all blocks have in one shape."""
    roles = sorted(_roles(source, here) & _roles(target, there))
    total = torch.zeros(here.depth, there.depth, dtype=torch.float64)
    for role in roles:
        first, second = _sampled(source, here, role), _sampled(target, there, role)
        if first.shape[1] == second.shape[1]:
            total += (first @ second.T).double() / len(roles)
    return total


def _roles(base: Checkpoint, stack: Stack) -> set[tuple[str, str]]:
    """What every block of a stack has: role and shape."""
    sites = [(site.path, shape) for site, shape in base.base.sites.items() if site.component == stack.component]
    starts = [f"{stack.path}.{block}." for block in range(stack.depth)]
    found = [
        {(path.removeprefix(start), str(shape)) for path, shape in sites if path.startswith(start)} for start in starts
    ]
    return set.intersection(*found)


def _sampled(base: Checkpoint, stack: Stack, role: tuple[str, str]) -> Tensor:
    """One row of length 1 for each block: an even sample of the weight's entries."""
    rows = []
    for block in range(stack.depth):
        entries = base.weight(Site(stack.component, f"{stack.path}.{block}.{role[0]}")).flatten()
        # An odd step, so that a sample of a matrix does not run down a single column.
        step = max(1, entries.numel() // SAMPLE) | 1
        rows.append(entries[::step].clone())
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)
