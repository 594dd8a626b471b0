"""What a transfer method is: a rule that turns one pair of sites into the two operators of a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lorax.adapter import Site, SiteShape
from lorax.algorithm import same_weight
from lorax.operators import Operator

Setting = float | int | str | bool
Needs = Literal["shapes", "weights", "activations"]
Bases = Literal["all", "language-models"]


@dataclass(frozen=True, slots=True, eq=False)
class SiteStatistics:
    """Sums over a probe that both bases were run on, at one pair of sites; float64.

    input_gram (in_t, in_t) = X_t^T X_t and input_cross (in_t, in_s) = X_t^T X_s over the inputs of the site's module;
    output_gram (out_t, out_t) and output_cross (out_t, out_s) the same over gradients of the model's output with
    respect to the module's output. Convolutions are summed over pixels, per channel. input_energy = ||X_s||^2 and
    output_energy the same of the source's gradients.
    held_out: the part of the same sums that comes from every other half batch, where it was kept apart.
    """

    input_gram: Tensor
    input_cross: Tensor
    output_gram: Tensor
    output_cross: Tensor
    input_energy: float
    output_energy: float
    held_out: SiteStatistics | None = None

    def plus(self, other: SiteStatistics) -> SiteStatistics:
        """Returns the sums over both probes; what was held out of either is held out of both."""
        parts = [part for part in (self.held_out, other.held_out) if part is not None]
        return self._with(other, 1, parts[0].plus(parts[1]) if len(parts) == 2 else next(iter(parts), None))

    def rest(self) -> SiteStatistics | None:
        """Returns the sums without what was held out: to fit on, for the held-out part to judge; None without one."""
        return self._with(self.held_out, -1, None) if self.held_out is not None else None

    def on(self, device: torch.device | str) -> SiteStatistics:
        """Returns the same sums on a device."""
        return SiteStatistics(
            self.input_gram.to(device),
            self.input_cross.to(device),
            self.output_gram.to(device),
            self.output_cross.to(device),
            self.input_energy,
            self.output_energy,
            self.held_out.on(device) if self.held_out is not None else None,
        )

    def _with(self, other: SiteStatistics, sign: int, held_out: SiteStatistics | None) -> SiteStatistics:
        return SiteStatistics(
            self.input_gram + sign * other.input_gram,
            self.input_cross + sign * other.input_cross,
            self.output_gram + sign * other.output_gram,
            self.output_cross + sign * other.output_cross,
            self.input_energy + sign * other.input_energy,
            self.output_energy + sign * other.output_energy,
            held_out,
        )


class Heads(NamedTuple):
    """How many query heads an attention has, and how many key and value heads they share."""

    queries: int
    keys: int


@dataclass(frozen=True, slots=True, eq=False)
class Decoders:
    """What a pair of sites has around it in two decoder language models; pairs are (source, target).

    heads(): of both, raises Stop where they are not written down; shared_embeddings(): rows of both token tables for
    the tokens that both have, (tokens, width) each, raises Stop where a tokenizer is missing; sibling(*roles): weights
    in the same block, the first of these last parts of a path that there is, None where one of the bases has none of
    them; remember(name, compute): computed once for all sites of the pair, which costs memory as long as it compiles.
    """

    heads: Callable[[], tuple[Heads, Heads]]
    shared_embeddings: Callable[[], tuple[Tensor, Tensor]]
    sibling: Callable[..., tuple[Tensor, Tensor] | None]
    remember: Callable[[str, Callable[[], Tensor]], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class SiteInputs:
    """All that a method may look at for one pair of sites. Weights load when asked for, one at a time.

    decoders: given where both bases are decoder language models.
    """

    target: Site
    source: Site
    target_shape: SiteShape
    source_shape: SiteShape
    target_weight: Callable[[], Tensor]
    source_weight: Callable[[], Tensor]
    statistics: SiteStatistics | None
    generator: torch.Generator
    decoders: Decoders | None = None

    @property
    def same_shape(self) -> bool:
        """True where an update of the source fits the target as it is; a 1x1 convolution is a linear layer."""
        return same_weight(self.target_shape, self.source_shape)

    @property
    def same_kernel(self) -> bool:
        """True where both weights have the same taps; a linear layer has one, as a 1x1 convolution."""
        shapes = (self.target_shape, self.source_shape)
        first, second = (shape.kernel if math.prod(shape.kernel or (1,)) > 1 else None for shape in shapes)
        return first == second


class Product(NamedTuple):
    """One summand O·update·I: `output` acts on up's rows, `input` on down's columns."""

    output: Operator
    input: Operator


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """What becomes of an update at a target site: O·update·I, and where `also` lists more such products, their sum.

    With `per_channel` the input operator acts on input channels and leaves a convolution's kernel taps alone; otherwise
    on all in·kh·kw columns. `figures` are what the method measured while it compiled (kept energy, fit and so on).
    norm_ratio: where given, each update that comes out is brought to `norm_ratio` times the norm it had before, every
    adapter's by a factor of its own. A sum has as many times the rank as it has summands: with `keeps_rank` it is cut
    to the best approximation of the rank that the update had.
    """

    output: Operator
    input: Operator
    per_channel: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    norm_ratio: float | None = None
    also: tuple[Product, ...] = ()
    keeps_rank: bool = True

    @property
    def products(self) -> tuple[Product, ...]:
        """All summands."""
        return (Product(self.output, self.input), *self.also)


@dataclass(frozen=True, slots=True)
class NoTerm:
    """Says why a target site gets no update."""

    reason: str


@dataclass(frozen=True, slots=True)
class Method:
    """A way of carrying updates over a base pair.

    `version` belongs to the plan key: raise it whenever the operators that come out change. `settings` holds every
    setting with its default; `compile_site` gets them merged with the user's. `gives_back` holds the settings under
    which an update that lies in the row and column space of its weight comes back unchanged between a base and itself;
    None where the method promises nothing of the kind. `for_bases` says where it has an answer at all. The conformance
    suite holds it to both.
    """

    name: str
    summary: str
    reference: str
    needs: Needs
    compile_site: Callable[[SiteInputs, Mapping[str, Setting]], Term | NoTerm]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    version: int = 1
    is_control: bool = False
    gives_back: Mapping[str, Setting] | None = None
    for_bases: Bases = "all"
