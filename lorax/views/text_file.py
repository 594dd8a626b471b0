"""text-file: how well the models predict a file of the user's, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.errors import Stop
from lorax.language_model import LanguageModel, TokenProbe
from lorax.probe import ProbeSettings
from lorax.probe_look import ProbeLook, at_once, followed
from lorax.running_model import RunningModel
from lorax.view import Look, Scene, View

_WIDEST = 32
"""Letters per token, so many that a file is never cut short; what lies behind them is not even split into tokens."""
_FEWEST = 2
"""Windows: how sure a figure is cannot be said from one."""


class PredictionLook(ProbeLook):
    """The log-probability (rows, 1) of each token that did follow: of a file nothing else is asked."""

    def __init__(self, texts: TokenProbe, *, batch: int) -> None:
        super().__init__(texts, batch=batch)
        self._texts = texts

    @torch.no_grad()
    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns log-probabilities (n, 1)."""
        output = super().see(model, adapter, rows)
        return output.gather(1, followed(self._texts, rows).to(output.device))


def look(scene: Scene) -> Mapping[str, Look]:
    """Opens the file, where the settings name one and the models write text; raises Stop where it does not serve."""
    if not scene.settings.predict or not isinstance(scene.source, LanguageModel):
        return {}
    probe = windows(scene.source, Path(scene.settings.predict), scene.probe)
    return {VIEW.name: PredictionLook(probe, batch=at_once(scene, probe))}


def windows(model: LanguageModel, file: Path, settings: ProbeSettings) -> TokenProbe:
    """Returns the first windows of a file as texts (at most `samples`, `length`), one behind the other.

    Each opens with the token that the tokenizer opens a text with, if any, which is given; else its first token is.
    Raises Stop for a file that cannot be read as UTF-8 or has too few tokens.
    """
    text = _text_of(file, letters=settings.samples * settings.length * _WIDEST)
    tokens: list[int] = model.tokenizer(text, verbose=False).input_ids
    opening = tokens[:1] if tokens and tokens[0] == model.tokenizer.bos_token_id else []
    size = settings.length - len(opening)
    count = min(settings.samples, (len(tokens) - len(opening)) // size)
    if count < min(_FEWEST, settings.samples):
        needed = _FEWEST * size + len(opening)
        advice = f"expected are at least {needed}, {_FEWEST} windows: give a longer text, or a smaller `length`"
        raise Stop(f"{file}: the text to predict has {len(tokens)} tokens; {advice} than {settings.length}")
    body = torch.tensor(tokens[len(opening) : len(opening) + count * size]).view(count, size)
    rows = torch.cat([torch.tensor(opening, dtype=torch.long).expand(count, -1), body], dim=1)
    return TokenProbe(rows, torch.ones(count, dtype=torch.long))


def _text_of(file: Path, *, letters: int) -> str:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return opened.read(letters)
    except (OSError, UnicodeDecodeError) as problem:
        raise Stop(f"{file}: cannot be read ({problem}); expected is a text to predict, a file of UTF-8") from problem


VIEW = View("text-file", "log-probabilities of the tokens of the file `predict`", shared=True, open=look, once=True)
