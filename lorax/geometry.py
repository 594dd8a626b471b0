"""How the outputs of two models are held against each other: what a divergence, an inner product and a size are.

Outputs are rows (n, features), float32. Diffusion models give predicted noise, language models log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Geometry:
    """Measures outputs row by row, each function giving (n,).

    divergence(wanted, found): of `found` from `wanted`, 0 where they agree, and differentiable;
    inner(at, first, second): product of two changes of output, seen from the output `at`;
    size(output): what a divergence is compared with when nothing else is at hand.
    """

    name: str
    divergence: Callable[[Tensor, Tensor], Tensor]
    inner: Callable[[Tensor, Tensor, Tensor], Tensor]
    size: Callable[[Tensor], Tensor]


def _squared_distance(wanted: Tensor, found: Tensor) -> Tensor:
    return (wanted - found).square().sum(1)


def _product(_at: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1)


def _squared_length(output: Tensor) -> Tensor:
    return output.square().sum(1)


def _kullback_leibler(wanted: Tensor, found: Tensor) -> Tensor:
    return (wanted.exp() * (wanted - found)).sum(1)


def _fisher_product(at: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The inner product of Fisher's metric: changes of log-probability, centred and weighted by the probabilities."""
    weights = at.exp()
    centred = first - (weights * first).sum(1, keepdim=True)
    return (weights * centred * second).sum(1)


def _entropy(output: Tensor) -> Tensor:
    return -(output.exp() * output).sum(1)


SQUARED = Geometry("squared", _squared_distance, _product, _squared_length)
"""For predicted noise: the Kullback-Leibler divergence of Gaussian predictions, up to a factor."""
LOG_PROBABILITIES = Geometry("log-probabilities", _kullback_leibler, _fisher_product, _entropy)
"""For log-probabilities over a vocabulary, in nats."""
