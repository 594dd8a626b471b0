"""What a probe is: inputs that both bases of a pair can be run on, to calibrate a plan and to score a conversion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from lorax.adapter import Adapter
from lorax.errors import Stop

if TYPE_CHECKING:
    from lorax.running_model import RunningModel


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How a probe is drawn.

    prompts: what samples are drawn for; samples: how many; seed: of the noise, and of the choice of tokens.
    Diffusion models: each sample takes `steps` of DDIM with `guidance` and is shown under every noise level of
    `timesteps`. Language models: samples are `length` tokens; `text` is a file of neutral text (UTF-8), of which
    windows are taken instead of letting the plain bases write.
    """

    prompts: tuple[str, ...]
    samples: int = 16
    timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    steps: int = 12
    guidance: float = 2.0
    seed: int = 0
    length: int = 128
    text: str = ""

    def identity(self, *parts: str) -> str:
        """Returns the name of the probe that these settings draw from models named by `parts` (fingerprints)."""
        content = hashlib.sha256(self.neutral_text().encode()).hexdigest() if self.text else ""
        body = json.dumps([{**asdict(self), "text": content}, *parts], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    def neutral_text(self) -> str:
        """Returns what the file `text` holds. Raises Stop where it cannot be read."""
        try:
            return Path(self.text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            advice = "the probe's text is expected to be a file of UTF-8 text"
            raise Stop(f"{self.text}: cannot be read ({problem}); {advice}") from problem


class Probe(Protocol):
    """Is something to run a model on, in rows. Each kind of model has its own, made by `RunningModel.look_at`."""

    @property
    def group(self) -> Tensor:
        """Gives, for each row of output, the number of the sample it comes from: rows of one are not independent."""
        ...

    def batches(self, size: int) -> list[slice]:
        """Returns slices that cover the probe, `size` rows each."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSource:
    """One way of finding inputs. `draw(source, target, adapter, settings)`; adapter is None when none is at hand."""

    name: str
    summary: str
    draw: Callable[[RunningModel, RunningModel, Adapter | None, ProbeSettings], Probe]


def prompts_for(settings: ProbeSettings, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns one prompt per sample, cycling through the settings' prompts, with an adapter's own words at the end.

    CLIP reads from left to right: words at the end change the style and leave alone how the subject was read.
    Without any prompt in the settings the words stand alone.
    """
    prompts = settings.prompts or ("",)
    chosen = [prompts[index % len(prompts)] for index in range(settings.samples)]
    return tuple(", ".join(part for part in (prompt, *words) if part) for prompt in chosen)


def slices(total: int, size: int) -> list[slice]:
    """Returns slices that cover `total` rows, `size` each."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
