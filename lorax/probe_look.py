"""The look that most scorers take: the models' own outputs, row by row, on a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.language_model import LanguageModel, TokenProbe
from lorax.probe import Probe
from lorax.running_model import RunningModel
from lorax.view import Look, Scene

MOST_BYTES = 1 << 28
"""Of the log-probabilities that one language model gives at once; a scorer holds four to six such tensors."""
TOKENS = "tokens"
"""What followed, (n, 1) int64: what looks at texts give to scorers by this name."""


class ProbeLook(Look):
    """Outputs (rows, features) on a probe; of texts also the tokens that did follow.

    batch: samples that are run at once; see `at_once`.
    """

    def __init__(self, probe: Probe, *, batch: int) -> None:
        self.probe = probe
        self.group = probe.group
        self._batches = probe.batches(batch)

    def batches(self) -> Sequence[slice]:
        """Returns slices of the probe's own rows."""
        return self._batches

    @torch.no_grad()
    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns the model's outputs."""
        with model.patched(adapter):
            return model.run(self.probe, rows)

    def given(self, rows: slice) -> Mapping[str, Tensor]:
        """Returns the tokens that did follow, (n, 1) int64, one for each row of output; nothing for pictures."""
        return {TOKENS: followed(self.probe, rows)} if isinstance(self.probe, TokenProbe) else {}


def followed(probe: TokenProbe, rows: slice) -> Tensor:
    """Returns the token (n, 1), int64 on the CPU, that each prediction of some texts was made of."""
    return probe.tokens[rows][:, 1:][probe.predicted[rows]][:, None].cpu()


def at_once(scene: Scene, probe: Probe) -> int:
    """Returns how many samples of a probe are run at once: the scene's batch, fewer where a vocabulary is large."""
    return texts_at_once(scene, length=probe.tokens.shape[1]) if isinstance(probe, TokenProbe) else scene.batch


def texts_at_once(scene: Scene, *, length: int) -> int:
    """Returns how many texts of some length are run at once, at least one: see MOST_BYTES."""
    models = [model for model in (scene.source, scene.target) if isinstance(model, LanguageModel)]
    widest = max((vocabulary_of(model) for model in models), default=1)
    return max(1, min(scene.batch, MOST_BYTES // (torch.float32.itemsize * widest * length)))


def vocabulary_of(model: LanguageModel) -> int:
    """Returns over how many tokens a model spreads its predictions, padding of its last layer included."""
    last = model.model.get_output_embeddings()
    return int(last.weight.shape[0] if last is not None else model.model.config.get_text_config().vocab_size)
