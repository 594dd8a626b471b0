"""What a language model answers: the likeliest token each time, to the end of a line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from lorax.language_model import LanguageModel

ANSWERS = "answers"
"""The answers that a file gives: what looks at questions give to scorers by this name."""


@torch.no_grad()
def answers(model: LanguageModel, starts: Sequence[Sequence[int]], *, most: int) -> list[str]:
    """Returns one line of text for each start (tokens): the greedy answer, spaces between its words made single.

    An answer ends where the model ends it, with the line in which it has its first word, or after `most` tokens.
    Starts of about equal length are run as one batch; the order is kept.
    """
    found = [""] * len(starts)
    for places in _alike(starts, within=most):
        written = _written(model, [starts[place] for place in places], most)
        for place, tokens in zip(places, written, strict=True):
            found[place] = one_line(model.tokenizer.decode(tokens, skip_special_tokens=True))
    return found


def _alike(starts: Sequence[Sequence[int]], *, within: int) -> list[list[int]]:
    """Returns the places of starts in groups, of which none is longer than its shortest by more than `within`."""
    groups: list[list[int]] = []
    for place in sorted(range(len(starts)), key=lambda place: len(starts[place])):
        if groups and len(starts[place]) <= len(starts[groups[-1][0]]) + within:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def one_line(text: str) -> str:
    """Returns the first line of a text that holds a word, with single spaces between its words."""
    return " ".join(text.strip().partition("\n")[0].split())


def _written(model: LanguageModel, starts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Returns the tokens that follow each start, at most `most`, without the one that ends a text.

    All starts are read together as far as the shortest goes. From there on each is given its own next token for as
    long as it has one, and then writes: without padding, which not every model can be told to look away from.
    """
    ends = _ends(model)

    @cache
    def breaks(token: int) -> bool:
        return "\n" in model.tokenizer.decode([token])

    written: list[list[int]] = [[] for _ in starts]
    going = set(range(len(starts)))
    read = min(map(len, starts))
    fresh, past = torch.tensor([list(start[:read]) for start in starts]), None
    while going:
        found = model.model(input_ids=fresh.to(model.device), past_key_values=past, use_cache=True)
        past = found.past_key_values
        likeliest = found.logits[:, -1].argmax(-1).tolist()
        for row in tuple(going):
            token = likeliest[row]
            if read < len(starts[row]):
                continue
            if token not in ends:
                written[row].append(token)
            over = breaks(token) and _has_a_line(model.tokenizer.decode(written[row]))
            if token in ends or over or len(written[row]) == most:
                going.discard(row)
        upcoming = [start[read] if read < len(start) else likeliest[row] for row, start in enumerate(starts)]
        fresh, read = torch.tensor(upcoming)[:, None], read + 1
    return written


def _has_a_line(text: str) -> bool:
    return "\n" in text.lstrip()


def _ends(model: LanguageModel) -> frozenset[int]:
    """Returns the tokens that end a text: the tokenizer's own, and those that the model was told of for chats."""
    told = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    several = told if isinstance(told, list) else [told]
    return frozenset(token for token in (model.tokenizer.eos_token_id, *several) if token is not None)
