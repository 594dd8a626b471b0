"""A loaded language model: a causal transformer with its tokenizer.

transformers only loads and runs the modules; it is imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from lorax.errors import Stop
from lorax.geometry import LOG_PROBABILITIES, Geometry
from lorax.probe import Probe, ProbeSettings, slices
from lorax.running_model import RunningModel

NOTHING = -1
"""Stands in samples where a text has ended."""


@dataclass(frozen=True, slots=True)
class TextParts:
    """The objects of transformers that make up a base."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True, eq=False)
class TokenProbe:
    """Texts (n, length) as tokens, NOTHING after their end, and how many tokens of each were given to begin with.

    A row of output is a prediction of the next token, wherever that is neither given nor past the end.
    """

    tokens: Tensor
    given: Tensor

    @property
    def predicted(self) -> Tensor:
        """Gives (n, length - 1): whether the prediction made at each position counts."""
        place = torch.arange(1, self.tokens.shape[1], device=self.tokens.device)
        return (self.tokens[:, 1:] != NOTHING) & (place >= self.given[:, None])

    @property
    def group(self) -> Tensor:
        """Gives, for each row of output, the number of its text."""
        return self.predicted.nonzero()[:, 0].cpu()

    def batches(self, size: int) -> list[slice]:
        """Returns slices that cover the probe, `size` texts each."""
        return slices(len(self.tokens), size)


class LanguageModel(RunningModel):
    """A causal language model of transformers with its tokenizer, float32, on one device, never trained here."""

    kind: ClassVar[str] = "language"
    geometry: ClassVar[Geometry] = LOG_PROBABILITIES

    def __init__(self, parts: TextParts) -> None:
        self.model, self.tokenizer = parts.model, parts.tokenizer
        super().__init__({"model": parts.model})

    def run(self, probe: Probe, rows: slice) -> Tensor:
        """Returns log-probabilities (n, vocabulary) of every prediction that counts, texts one after the other."""
        shown = cast("TokenProbe", probe)
        tokens = shown.tokens[rows].to(self.device)
        logits: Tensor = self.model(input_ids=tokens.clamp_min(0), use_cache=False).logits[:, :-1]
        counted = shown.predicted[rows].to(self.device)
        return torch.log_softmax(self._spoken(logits[counted]).float(), dim=-1)

    def _spoken(self, logits: Tensor) -> Tensor:
        """Returns logits without those that pad the last layer: bases of one tokenizer may be padded differently."""
        return logits[..., : len(self.tokenizer)]

    @torch.no_grad()
    def samples(
        self, prompts: Sequence[str], *, settings: ProbeSettings, seed: int, rows: slice = slice(None)
    ) -> Tensor:
        """Returns texts (n, length), int64 on the CPU, that continue prompts[rows], NOTHING after the end of a text.

        Tokens are drawn at temperature 1 from the whole vocabulary, those of each text by chance of its own.
        """
        starts = [self.start_of(prompt, settings) for prompt in prompts]
        wanted = range(len(prompts))[rows]
        drawn = torch.full((len(wanted), settings.length), NOTHING)
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, index in enumerate(wanted):
            by_length[len(starts[index])].append(place)
        for places in by_length.values():
            chance = torch.stack([_chance(seed, wanted[place], settings.length) for place in places])
            drawn[places] = self._written(torch.tensor([starts[wanted[place]] for place in places]), chance)
        return drawn

    def start_of(self, prompt: str, settings: ProbeSettings) -> list[int]:
        """Returns the tokens that a text for a prompt begins with: its own, or the one that starts every text."""
        tokens: list[int] = self.tokenizer(prompt).input_ids if prompt else []
        if not tokens:
            first = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
            tokens = [next(token for token in first if token is not None)]
        return tokens[: settings.length - 1]

    def _written(self, starts: Tensor, chance: Tensor) -> Tensor:
        """Returns texts (n, length) from starts (n, some) and uniform numbers (n, length), one for each place."""
        length = chance.shape[1]
        texts, ended = starts, torch.zeros(len(starts), dtype=torch.bool)
        fresh, past = starts, None
        end = self.tokenizer.eos_token_id
        for place in range(starts.shape[1], length):
            found = self.model(input_ids=fresh.to(self.device), past_key_values=past, use_cache=True)
            past = found.past_key_values
            # Inverse of the cumulative distribution, in float64 on the CPU: every device draws the same text.
            cumulated = self._spoken(found.logits[:, -1]).double().cpu().softmax(-1).cumsum(-1)
            token = torch.searchsorted(cumulated, chance[:, place : place + 1].contiguous())[:, 0]
            token = token.clamp_max(cumulated.shape[1] - 1)
            texts = torch.cat([texts, torch.where(ended, NOTHING, token)[:, None]], dim=1)
            ended |= token == (end if end is not None else NOTHING)
            fresh = token[:, None]
            if bool(ended.all()):
                break
        return torch.nn.functional.pad(texts, (0, length - texts.shape[1]), value=NOTHING)

    def given(self, settings: ProbeSettings) -> Tensor | None:
        """Returns windows (samples, length) of the settings' text at random places; None where it has none.

        Raises Stop for a text that is shorter than a window.
        """
        if not settings.text:
            return None
        tokens = torch.tensor(self.tokenizer(settings.neutral_text(), verbose=False).input_ids)
        if len(tokens) < settings.length:
            advice = f"give a longer text, or a smaller `length` than {settings.length}"
            raise Stop(f"{settings.text}: the text has {len(tokens)} tokens; {advice}")
        generator = torch.Generator().manual_seed(settings.seed)
        starts = torch.randint(len(tokens) - settings.length + 1, (settings.samples,), generator=generator)
        return tokens[starts[:, None] + torch.arange(settings.length)]

    def look_at(self, samples: Tensor, *, prompts: Sequence[str], settings: ProbeSettings) -> TokenProbe:
        """Returns the probe that has each token of the texts predicted but for those of the prompts."""
        given = torch.tensor([len(self.start_of(prompt, settings)) for prompt in prompts], device=samples.device)
        return TokenProbe(samples, given)

    def pulls(
        self, output: Tensor, probe: Probe, rows: slice, *, count: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Returns one-hot rows: the tokens that did follow, then tokens drawn from the model's own prediction."""
        shown = cast("TokenProbe", probe)
        tokens = shown.tokens[rows]
        followed = tokens[:, 1:][shown.predicted[rows]]
        drawn = [torch.multinomial(output.detach().cpu().exp(), 1, generator=generator)[:, 0] for _ in range(1, count)]
        return [
            torch.nn.functional.one_hot(each.to(output.device), output.shape[1]).to(output.dtype)
            for each in (followed, *drawn)
        ]

    def require_comparable(self, other: RunningModel) -> None:
        """Raises Stop for models of another kind or with another vocabulary."""
        if not isinstance(other, LanguageModel):
            raise Stop(f"a language model and a {other.kind} model cannot be run on the same inputs")
        if self.tokenizer.get_vocab() != other.tokenizer.get_vocab():
            raise Stop(
                "the two bases have different vocabularies, so their predictions cannot be compared token by token; "
                "choose a method that needs weights only"
            )


def _chance(seed: int, index: int, length: int) -> Tensor:
    """Returns uniform numbers (length,), float64, that belong to one text."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    return torch.rand(length, generator=generator, dtype=torch.float64)


def load_language_model(folder: Path, *, device: str = "cpu") -> LanguageModel:
    """Opens a transformers folder (config.json, weights as safetensors, tokenizer); nothing is fetched.

    Raises Stop where the folder is not such a model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per load would tear up the run's own
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Stop(
            f"{folder} cannot be opened as a language model: {error}. Expected a transformers folder with config.json, "
            "weights as safetensors, and the tokenizer."
        ) from error
    return LanguageModel(TextParts(model.eval().to(device), tokenizer))
