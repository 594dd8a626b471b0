"""What an encoder is: a model that sees pictures, and may be words, as points; near points are alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


class Encoder(ABC):
    """A loaded encoder, float32, on one device.

    asks: what its figures are about: "likeness" of pictures, "style", or "preference" for a picture given a prompt.
    """

    asks: str = "likeness"

    @abstractmethod
    def pictures(self, pixels: Tensor) -> Tensor:
        """Returns points (n, d) of length 1 for pictures (n, h, w, channels) uint8, of one channel or of three."""

    def words(self, prompts: Sequence[str]) -> Tensor | None:
        """Returns points (n, d) of length 1 in the space of `pictures`; None for an encoder that does not read."""
        del prompts
        return None

    def preferences(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor | None:
        """Returns (n,) how much people would like each picture for its prompt; None for an encoder of no taste."""
        del pixels, prompts
        return None


@dataclass(frozen=True, slots=True, eq=False)
class EncoderKind:
    """One kind of encoder. `open(folder, device)` loads it from a local folder and fetches nothing.

    Raises lorax.errors.Stop where the folder is not of this kind.
    """

    name: str
    summary: str
    reference: str
    open: Callable[[Path, str], Encoder]
