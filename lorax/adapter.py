"""The one in-memory form of an adapter: an update by site, low-rank with one explicit scale or of a richer kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Names one weight of a base model that can be patched.

    component: "unet", "transformer", "text_encoder", "text_encoder_2" ... of a pipeline, "model" for a model of
    transformers on its own; path: canonical dotted module path, in diffusers' names for U-Nets and diffusion
    transformers and with the `text_model.` level for CLIP text encoders. Experts that are stacked in one parameter are
    a site each: `….experts.gate_up_proj[3]`. A vector (bias, norm) is named by its parameter: `….norm1.weight`.
    """

    component: str
    path: str

    def __str__(self) -> str:
        return f"{self.component}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads back what str(site) wrote. Raises ValueError for a text without component and path."""
        component, separator, path = text.partition(":")
        if not (component and separator and path):
            raise ValueError(f"a site is written component:path, this is {text!r}")
        return cls(component, path)


@dataclass(frozen=True, slots=True)
class SiteShape:
    """Tells the shape of a site's weight: (out, in) for a linear layer, (out, in, *kernel) for a convolution.

    kernel: None for a linear layer, (kh, kw) or (kt, kh, kw) for a convolution, ones included.
    """

    out_features: int
    in_features: int
    kernel: tuple[int, ...] | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> SiteShape:
        """Gives the shape of a weight with two (linear), four or five (convolution) dimensions."""
        return cls(shape[0], shape[1], tuple(shape[2:]) or None)

    @property
    def columns(self) -> int:
        """Counts the columns of the weight seen as a matrix: in times the taps of the kernel."""
        return self.in_features * math.prod(self.kernel or (1,))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Gives the shape of the weight in a checkpoint."""
        return (self.out_features, self.in_features, *(self.kernel or ()))

    def __str__(self) -> str:
        return "x".join(map(str, self.weight_shape))


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Holds the update scale * up @ down of one weight.

    up: (out, rank) float32; down: (rank, in*kh*kw) float32; kernel as in SiteShape. Only on the way from file to file,
    where an adapter is read into memory that somebody gave, are factors in the half precision of their file; all their
    numbers have been found finite then.
    """

    up: Tensor
    down: Tensor
    scale: float
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm file that writes this form."""
        return "lora"

    @property
    def needs_base(self) -> bool:
        """Tells that the update is known without the base weight."""
        return False

    @property
    def rank(self) -> int:
        """Gives the inner dimension of the two factors."""
        return int(self.down.shape[0])

    @property
    def out_features(self) -> int:
        """Counts the rows of the weight that is patched."""
        return int(self.up.shape[0])

    @property
    def columns(self) -> int:
        """Counts the columns of the weight seen as a matrix: in * kh * kw."""
        return int(self.down.shape[1])

    def norm(self) -> float:
        """Gives the Frobenius norm of the update, from two Gram matrices in float64, never forming the product."""
        up, down = self.up.double(), self.down.double()
        # ||U D||^2 = trace(U'U D D'), both factors (rank, rank) and symmetric.
        squared = float(((up.mT @ up) * (down @ down.mT)).sum())
        return abs(self.scale) * math.sqrt(max(squared, 0.0))

    def low_rank(self) -> LowRank:
        """Gives the update itself."""
        return self

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the update in the shape of the weight, in the factors' element type, from halves in float32."""
        del weight
        up, down = (self.up, self.down) if self.up.itemsize > 2 else (self.up.float(), self.down.float())
        product = self.scale * (up @ down)
        if self.kernel is None:
            return product
        return product.reshape(self.out_features, -1, *self.kernel)

    def rows(self, begin: int, end: int) -> LowRank:
        """Gives the update of rows [begin, end) of the weight: the same down factor, a slice of the up factor."""
        return LowRank(self.up[begin:end], self.down, self.scale, self.kernel)


class Update(Protocol):
    """Is what an adapter does at one site, whatever the algorithm: a change that is added to the weight.

    Implementations are frozen dataclasses in the algorithm's own file. kernel: as in SiteShape.
    """

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        ...

    @property
    def kernel(self) -> tuple[int, ...] | None:
        """Gives the kernel of the weight that is patched."""
        ...

    @property
    def needs_base(self) -> bool:
        """Tells whether `dense` needs the weight of the base model."""
        ...

    def low_rank(self) -> LowRank | None:
        """Gives the same update as low-rank factors where that is exact without the base weight, else None."""
        ...

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight, (out, in) or (out, in, *kernel).

        weight: of the base, in that shape; computation is in the weight's element type, or in that of the update's own
        tensors where no weight is given. Raises ValueError when needs_base and there is none.
        """
        ...

    def rows(self, begin: int, end: int) -> Update:
        """Gives the update of rows [begin, end) of the weight. Raises Unsupported where that cannot be said exactly."""
        ...


@dataclass(frozen=True, slots=True)
class BaseVerdict:
    """Tells which base model an adapter was made for, and by which evidence.

    name: of the BaseModel that won; None when nobody asked or nothing decides between several.
    rivals: names of the base models between which nothing decides, empty when one has won.
    """

    name: str | None
    family: str
    version: str
    evidence: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Holds what an adapter file says, whatever its dialect.

    updates: by site; vectors: changes that are added to biases and norms, by the parameter's site, float32;
    saved: whole tensors that replace or extend parts of the model (modules_to_save), by name, carried apart;
    dtype: the most common element type of the file; metadata: what may be carried on, private paths left out;
    unmappable: (tensor name, why it has no effect here) for tensors that were left out knowingly;
    notes: what a reader of the file should know, such as an alpha of 0; dataset_words: the commonest words that it was
    trained with, the commonest first, never written anywhere;
    weights_sha256: sha256 of the bytes after the header, the file's identity.
    """

    updates: Mapping[Site, Update]
    dialect: str
    algorithms: tuple[str, ...]
    dtype: torch.dtype
    metadata: Mapping[str, str]
    trigger_words: tuple[str, ...]
    base: BaseVerdict
    weights_sha256: str
    unmappable: tuple[tuple[str, str], ...] = ()
    vectors: Mapping[Site, Tensor] = field(default_factory=dict)
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dataset_words: tuple[str, ...] = ()

    def low_rank(self) -> Mapping[Site, LowRank]:
        """Gives the updates as the factors that methods move. Raises TypeError for a site that was not lowered yet."""
        for site, update in self.updates.items():
            if not isinstance(update, LowRank):
                raise TypeError(f"{site} is of algorithm {update.algorithm}; lower the adapter first")
        return cast("Mapping[Site, LowRank]", self.updates)

    def scales(self) -> dict[str, float]:
        """Gives the scale of every update by its site's name, 1 for algorithms without one."""
        return {str(site): float(getattr(update, "scale", 1.0)) for site, update in self.updates.items()}

    def ranks(self) -> tuple[int, ...]:
        """Lists the ranks that occur, sorted, each once; of LoHa and LoKr those of their factors."""
        return tuple(sorted({int(getattr(update, "rank", 0)) for update in self.updates.values()} - {0}))

    def norm(self) -> float:
        """Gives the Frobenius norm over all updates together, of an adapter that has been lowered."""
        return math.sqrt(sum(update.norm() ** 2 for update in self.low_rank().values()))
