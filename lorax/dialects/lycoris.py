"""lycoris: LyCORIS' spelling, that of sd-scripts with more endings, or `lycoris_` before the path.

`lora_unet_….lokr_w1`, `.hada_w1_a`, `.diff`, `.oft_blocks` …, norms as `.w_norm` and `.b_norm`. scale = alpha / rank of
that module; where no factor has a rank alpha is ignored. OFT and BOFT keep their constraint in alpha. Textual
inversions that some trainers bundle, `bundle_emb.<token>.…`, belong to one text encoder and are left out with a reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lorax.base_model import BaseModel
from lorax.bundled import bundled_token, why_bundled
from lorax.dialect import MARKED, SIGNED, Dialect, EncodedFile, EncodedModule, Evidence, Writing, all_modules
from lorax.flat_files import alpha_over_rank, flat_file, refuse_saved
from lorax.flat_names import (
    NAME,
    ONETRAINER_PREFIXES,
    family_of,
    flat,
    flat_modules,
    split_flat,
    trainer_of,
    trainer_prefixes,
)
from lorax.naming import NamedModule
from lorax.suffixes import LYCORIS, LYCORIS_ONLY, endings_of, ends_with

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPER = "lycoris_"
# The wrapper takes one model and does not name it: a second one would have the same names.
_WRAPPED = frozenset({"unet", "transformer", "model"})
_SUFFIXES = {**LYCORIS, ".weight": "ia3"}
_MARKS = endings_of(LYCORIS_ONLY, [".dora_scale"])
_BUNDLE = "bundle_emb."
# What LyCORIS calls the algorithms in its own configuration.
_ALGO = {"oft": "diag-oft", "dora": "lora"}


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    flat_ones = sum(NAME.fullmatch(name) is not None or name.startswith((_WRAPPER, _BUNDLE)) for name in names)
    marked = sum(ends_with(name, _MARKS) or name.startswith((_WRAPPER, _BUNDLE)) for name in names)
    if 2 * flat_ones <= len(names) or any(name.startswith(ONETRAINER_PREFIXES) for name in names):
        return None
    words = f"{marked} of {len(names)} tensor names are of LyCORIS' own parts"
    if trainer_of(metadata) == "lycoris":
        return Evidence(SIGNED, f"{words}, ss_network_module is {metadata['ss_network_module']}")
    return Evidence(MARKED, words) if marked else None


def _split(name: str) -> tuple[str, str]:
    return bundled_token(name) or split_flat(name, _SUFFIXES)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    first = family_of(base)
    yield from flat_modules(base, first=first, prefixes=trainer_prefixes(base))
    for module in all_modules(base, first=first):
        if module.component in _WRAPPED:
            yield _WRAPPER + flat(module.path), module


def _unmappable(spelling: str, _roles: frozenset[str]) -> str:
    if spelling.endswith("_text_projection"):
        return "the base model has no text projection, so this part had no effect on it"
    return why_bundled(spelling)


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_saved(writing, "lycoris")
    commonest = Counter(module.algorithm for module in modules).most_common(1)
    algo = commonest[0][0] if commonest else "lora"
    network = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": _ALGO.get(algo, algo)}),
    }
    naming = family_of(writing.base)
    more = {f"{spelling}{ending}": vector for (spelling, ending), vector in _endings(vectors, writing).items()}
    more |= _alphas_of_whole_factors(modules, writing)
    return [flat_file(modules, more, writing, suffixes=_SUFFIXES, network=network, naming=naming)]


def _alphas_of_whole_factors(modules: Sequence[EncodedModule], writing: Writing) -> dict[str, Tensor]:
    """LyCORIS does not load LoKr without an alpha, though it applies none where both factors are whole."""
    whole = [module for module in modules if {"lokr_w1", "lokr_w2"} <= module.tensors.keys()]
    return {f"{module.spelling}.alpha": torch.tensor(1.0, dtype=writing.dtype) for module in whole}


def _endings(vectors: Mapping[tuple[str, str], Tensor], writing: Writing) -> dict[tuple[str, str], Tensor]:
    """Vectors by spelling and ending: a norm has both of its own names, anything else has diff_b."""
    norms = {spelling for spelling, role in vectors if role == "weight_diff"}
    found = {}
    for (spelling, role), vector in vectors.items():
        ending = ".w_norm" if role == "weight_diff" else ".b_norm" if spelling in norms else ".diff_b"
        found[spelling, ending] = vector.to(writing.dtype)
    return found


DIALECT = Dialect(
    name="lycoris",
    summary="LyCORIS and the trainers that use it: LoHa, LoKr, full, IA3, OFT, DoRA, norms",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    unmappable=_unmappable,
    says=frozenset({"lora", "loha", "lokr", "full", "ia3", "oft", "dora"}),
    pack=_pack,
)
