"""What may be carried from an adapter file's header into another file: an allow-list, private paths left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice

_CARRIED = frozenset({
    "ss_base_model_version", "ss_clip_skip", "ss_network_alpha", "ss_network_args", "ss_network_dim",
    "ss_network_module", "ss_new_sd_model_hash", "ss_output_name", "ss_resolution", "ss_sd_model_name",
    "ss_training_comment", "ss_v2", "modelspec.architecture", "modelspec.author", "modelspec.description",
    "modelspec.implementation", "modelspec.license", "modelspec.prediction_type", "modelspec.resolution",
    "modelspec.sai_model_spec", "modelspec.tags", "modelspec.title", "modelspec.trigger_phrase", "modelspec.usage_hint",
})  # fmt: skip
_VALUE_CHARACTERS = 16_384
_TAGS_CHARACTERS = 4 * 2**20
_TRIGGERS = 8
_TRIGGER_CHARACTERS = 200
_DATASET_WORDS = 32
_PATH = re.compile(
    r"""(?<![A-Za-z])[A-Za-z]:[\\/]      # a drive
      | \\\\\w                           # a network share
      | file://
      | (?:^|[\s"'=(,\[:;])(?:/|~/|\.{1,2}[\\/])[\w.@%+-]+[/\\]?   # a path from the root or from here
    """,
    re.VERBOSE,
)


def holds_path(text: str) -> bool:
    """Tells whether a text holds what looks like a path of somebody's machine."""
    return _PATH.search(text) is not None


def carried(metadata: Mapping[str, str]) -> dict[str, str]:
    """Gives the entries that may be carried on.

    Everything that is not on the list is dropped, as is every value that is very long or holds a path. The tag
    statistics of sd-scripts shrink to the trigger words with their counts, without the names of training folders.
    """
    kept = {
        key: value
        for key, value in metadata.items()
        if key in _CARRIED and len(value) <= _VALUE_CHARACTERS and not holds_path(value)
    }
    if counts := _leading_tags(metadata):
        kept["ss_tag_frequency"] = json.dumps({"triggers": counts}, sort_keys=True)
    return kept


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Gives the words that call the adapter's effect: as the author wrote them, else the leading training tags."""
    phrase = metadata.get("modelspec.trigger_phrase", "")[:_VALUE_CHARACTERS]
    written = [word.strip() for word in phrase.split(",")]
    found = [word for word in written if _is_trigger(word)] or list(_leading_tags(metadata))
    return tuple(dict.fromkeys(found))[:_TRIGGERS]


def dataset_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Gives the words that the images of the training set were described with, the commonest first, at most 32.

    For looking at what the adapter does, never for writing: words of a data set are not always meant to be spread.
    """
    total: dict[str, int] = {}
    for counts in _tag_counts(metadata):
        for tag, count in counts.items():
            word = tag.strip()
            total[word] = total.get(word, 0) + count
    ordered = sorted(total, key=lambda word: (-total[word], word))
    return tuple(islice((word for word in ordered if total[word] > 0 and _is_trigger(word)), _DATASET_WORDS))


def _leading_tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """The first of the commonest tags of each training folder: trainers write the trigger word first."""
    leaders: dict[str, int] = {}
    for counts in _tag_counts(metadata):
        leading = max(counts, key=counts.__getitem__).strip()
        leaders[leading] = leaders.get(leading, 0) + max(counts.values())
    return {tag: count for tag, count in list(leaders.items())[:_TRIGGERS] if _is_trigger(tag)}


def _tag_counts(metadata: Mapping[str, str]) -> list[dict[str, int]]:
    """The counts by tag of each training folder, as sd-scripts notes them; nothing of what has another form."""
    text = metadata.get("ss_tag_frequency", "")
    if len(text) > _TAGS_CHARACTERS:
        return []
    try:
        folders = json.loads(text)
    except (ValueError, RecursionError):
        return []
    listed = folders.values() if isinstance(folders, dict) else ()
    counted = [
        {tag: count for tag, count in tags.items() if type(count) is int} for tags in listed if isinstance(tags, dict)
    ]
    return [counts for counts in counted if counts]


def _is_trigger(word: str) -> bool:
    return 0 < len(word) <= _TRIGGER_CHARACTERS and word.isprintable() and not holds_path(word)
