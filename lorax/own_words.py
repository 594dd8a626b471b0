"""An adapter's own words: prompts that it was shown, made or trained with, before neutral ones.

In the order of trust: example prompts of the catalogue; trigger words behind neutral prompts; the commonest words of
its training set behind neutral prompts; neutral prompts as they are. Nothing here is checked by anybody: names, cards
and headers are written by strangers, so every text is cleaned and of bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

from lorax.adapter import Adapter
from lorax.neutral_prompts import NEUTRAL_PROMPTS
from lorax.probe import ProbeSettings

CATALOGUE, TRIGGERS, DATASET, NEUTRAL = "catalogue", "trigger words", "dataset", "neutral"
"""Where a prompt's words come from."""

LONGEST = 300
"""Characters of a prompt: about what the 77 tokens of CLIP hold."""
_READ = 4_000
"""Characters of a stranger's text that are looked at."""

_NETWORK = re.compile(r"<[A-Za-z]{1,16}:[^<>]{0,400}>|\bembedding:[^\s,]+")
_WEIGHT = re.compile(r":\s{0,4}[+-]?\d{0,6}\.?\d{1,6}\s{0,4}(?=[)\]}])")
_COMMAND = re.compile(r"\b(?:BREAK|AND|ADDCOMM|ADDBASE|ADDCOL|ADDROW)\b|\|")
_SCENE = re.compile(r"(?:an?|the)(?: \S+){3,}", re.IGNORECASE)
"""What a trigger looks like that names a whole picture: "a photo of sks dog", but not "lit from the right"."""
_NO_LETTERS = re.compile(r"[\W_]+")
_BRACKETS = re.compile(r"[()\[\]{}]")
_ESCAPED = str.maketrans({"\ue000": "(", "\ue001": ")", "\ue002": "[", "\ue003": "]", "\\": None})


@dataclass(frozen=True, slots=True)
class OwnPrompts:
    """One prompt per sample, and where the words of each come from: equally many of both."""

    prompts: tuple[str, ...]
    sources: tuple[str, ...]


def own_prompts(
    adapter: Adapter | None,
    examples: Sequence[str],
    settings: ProbeSettings,
    *,
    pictures: bool = True,
    dataset: Sequence[str] = (),
) -> OwnPrompts:
    """Returns `settings.samples` prompts in the adapter's own words, the same each time.

    examples: the catalogue's example prompts; pictures: the model draws, so that web UIs' syntax is taken out of the
    examples and NEUTRAL_PROMPTS serve where the settings have no prompts; dataset: what it was trained with, the
    commonest first. When all that there is has been used, the prompts come again from the first on. Words that are
    added stand at the end: CLIP reads from left to right, words at the end change the style and leave alone how the
    subject was read.
    """
    clean = cleaned if pictures else _tidy
    words = () if adapter is None else _distinct(map(clean, adapter.trigger_words))
    behind = _cut(", ".join(words), LONGEST)
    neutral = settings.prompts or (NEUTRAL_PROMPTS if pictures else ("",))
    pool: dict[str, str] = {}
    for text, source in chain(
        ((text, CATALOGUE) for text in _of_catalogue(map(clean, examples), words, behind)),
        ((_joined(prompt, behind), TRIGGERS) for prompt in neutral if behind),
        ((text, DATASET) for text in _of_dataset(map(clean, dataset), behind, neutral)),
        ((prompt, NEUTRAL) for prompt in neutral if not behind),
    ):
        if len(pool) == settings.samples:
            break
        pool.setdefault(text, source)
    chosen = list(islice(cycle(pool.items()), settings.samples))
    return OwnPrompts(tuple(text for text, _ in chosen), tuple(source for _, source in chosen))


def cleaned(prompt: str) -> str:
    r"""Returns what an example prompt of a web UI says: one line without networks, weights and commands, in bounds.

    `<lora:name:1>` goes; of `(word:1.2)`, `((word))` and `[word]` the word stays; BREAK and its like become commas; a
    bracket written as `\(` stays as a bracket. Empty where no letter or digit is left.
    """
    text = prompt[:_READ].translate(dict.fromkeys(range(0xE000, 0xE004)))
    for mark, escaped in zip("\ue000\ue001\ue002\ue003", (r"\(", r"\)", r"\[", r"\]"), strict=True):
        text = text.replace(escaped, mark)
    text = _BRACKETS.sub(" ", _WEIGHT.sub("", _NETWORK.sub(" ", text)))
    return _tidy(_COMMAND.sub(",", text).translate(_ESCAPED))


def _tidy(text: str) -> str:
    """Returns a text on one line, without empty places between commas, cut off at a comma or else at a space."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:_READ])
    parts = [" ".join(part.split()) for part in plain.split(",")]
    whole = ", ".join(part for part in parts if part)
    return _cut(whole, LONGEST) if any(letter.isalnum() for letter in whole) else ""


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    kept = text[: length + 1]
    end = max(kept.rfind(","), kept.rfind(" ") if kept.rfind(",") < length // 2 else -1)
    return text[: end if end > 0 else length].rstrip(", ")


def _of_catalogue(examples: Iterable[str], words: Sequence[str], behind: str) -> Iterator[str]:
    """Gives each example once, with the trigger words where it has none of them, but not what is a trigger only."""
    alone = {_folded(word) for word in words if not _SCENE.fullmatch(word)}
    for example in _distinct(examples):
        if _folded(example) in alone:
            continue
        calls = not words or any(_says(example, word.partition(",")[0]) for word in words)
        room = LONGEST - len(behind) - len(", ")
        yield example if calls else _joined(_cut(example, room) if room > 0 else "", behind)


def _of_dataset(dataset: Iterable[str], behind: str, neutral: Sequence[str]) -> Iterator[str]:
    """Gives the words of the training set behind neutral prompts, but for those that are said already."""
    said = ", ".join((*neutral, behind))
    fresh = [word for word in _distinct(dataset) if not _says(said, word)]
    return (_joined(neutral[index % len(neutral)], behind, word) for index, word in enumerate(fresh))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns each text once that says anything, the first way of writing it."""
    found: dict[str, str] = {}
    for text in texts:
        if text:
            found.setdefault(_folded(text), text)
    return tuple(found.values())


def _says(text: str, word: str) -> bool:
    """Tells whether a text holds a word or phrase, as a whole one, however it is written."""
    return f" {_folded(word)} " in f" {_folded(text)} "


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _folded(text: str) -> str:
    """Returns a text for comparing: without regard to case, `_` for a space, brackets and commas."""
    return " ".join(_NO_LETTERS.sub(" ", text).casefold().split())
