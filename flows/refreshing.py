"""`lorax convert --method refresh`: converts an adapter by plans, then lets it learn from source+adapter."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorax.adapter import Adapter
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.improve import REFRESH, Improved, for_words, improved, starts_from
from lorax.load_model import load_pair
from lorax.methods import METHODS
from lorax.prepare import Progress, prepare_plan
from lorax.refresh import RefreshSettings
from tasks.device import device

__all__ = ["NO_PLAN", "REFRESH", "Improved", "improve"]

_STARTS = ("auto" if "auto" in METHODS else "calibrated", "copy", "zero")
"""What is started from, whichever is best; `zero` is the target itself, where every conversion does harm."""
NO_PLAN = (
    "refresh is no plan: it runs both base models for every adapter. Refresh one with "
    "`lorax convert ADAPTER --source S --target T --method refresh -o OUT`, or what the gate rejects with "
    "[refresh] allowed = true in a migration"
)


def improve(
    bases: tuple[Checkpoint, Checkpoint],
    adapter: Adapter,
    lowered: Adapter,
    settings: RefreshSettings,
    *,
    progress: Progress,
) -> Improved:
    """Converts a lowered adapter by every plan it may start from, and refreshes the best of the results.

    bases: source and target; adapter: as it was read, of which the student learns. Sites that a conversion leaves
    empty although they correspond begin at zero. Ctrl-C ends the learning: what was reached until then is returned.
    Raises Stop for bases that do not run or compare, Unsupported where not one site of the adapter has a home.
    """
    models = load_pair(bases[0].folder, bases[1].folder, device=device())
    matches = pairing(*bases)
    probe = for_words(settings.probe, adapter)
    plans = {
        method: prepare_plan(*bases, method=method, settings={}, probe=probe, device=device(), progress=progress)
        for method in _STARTS
    }
    starts = starts_from(plans, lowered, matches, target=bases[1].base)
    with _interruptible() as interrupted:
        return improved(models, adapter, starts, settings, matches, progress=progress, stop=interrupted)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a question: has Ctrl-C been pressed? A second one interrupts as ever."""
    pressed: list[int] = []

    def remember(number: int, _frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
