"""What a language model answers: the likeliest token each time, to the end of a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from lorax.language_model import LanguageModel

ANSWERS = "answers"
"""The answers that a file gives: what looks at questions give to scorers by this name."""


@torch.no_grad()
def answers(model: LanguageModel, starts: Sequence[Sequence[int]], *, most: int) -> list[str]:
    """Returns one line of text for each start (tokens): the greedy answer, spaces between its words made single.

    An answer ends where the model ends it, with the line in which it has its first word, or after `most` tokens.
    Starts of equal length are run as one batch; the order is kept.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, start in enumerate(starts):
        by_length[len(start)].append(place)
    found = [""] * len(starts)
    for places in by_length.values():
        written = _written(model, torch.tensor([list(starts[place]) for place in places]), most)
        for place, tokens in zip(places, written, strict=True):
            found[place] = one_line(model.tokenizer.decode(tokens, skip_special_tokens=True))
    return found


def one_line(text: str) -> str:
    """Returns the first line of a text that holds a word, with single spaces between its words."""
    return " ".join(text.strip().partition("\n")[0].split())


def _written(model: LanguageModel, starts: Tensor, most: int) -> list[list[int]]:
    """Returns the tokens that follow each start (n, some), at most `most`, without the one that ends a text."""
    ends = _ends(model)

    @cache
    def breaks(token: int) -> bool:
        return "\n" in model.tokenizer.decode([token])

    written: list[list[int]] = [[] for _ in starts]
    going = set(range(len(starts)))
    fresh, past = starts, None
    for _ in range(most):
        found = model.model(input_ids=fresh.to(model.device), past_key_values=past, use_cache=True)
        past = found.past_key_values
        fresh = found.logits[:, -1:].argmax(-1).cpu()
        for row in tuple(going):
            token = int(fresh[row])
            if token not in ends:
                written[row].append(token)
            if token in ends or (breaks(token) and _has_a_line(model.tokenizer.decode(written[row]))):
                going.discard(row)
        if not going:
            break
    return written


def _has_a_line(text: str) -> bool:
    return "\n" in text.lstrip()


def _ends(model: LanguageModel) -> frozenset[int]:
    """Returns the tokens that end a text: the tokenizer's own, and those that the model was told of for chats."""
    told = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    several = told if isinstance(told, list) else [told]
    return frozenset(token for token in (model.tokenizer.eos_token_id, *several) if token is not None)
