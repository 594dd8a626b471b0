"""svdiff: svdiff-pytorch's `spectral_shifts.safetensors`, `down_blocks.0.attentions.0.proj_in.delta`.

Paths are the model's own, without the component. Norms have a shift of one number, which scales them by an amount that
only the base tells: such a shift is left out, and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lorax.base_model import BaseModel
from lorax.dialect import MARKED, Dialect, Evidence, all_modules, share_evidence
from lorax.flat_names import spelled_paths
from lorax.naming import NamedModule

_SUFFIX = ".delta"


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    matching = sum(name.endswith(_SUFFIX) for name in names)
    if matching < len(names):
        return None
    return share_evidence(names, matching, "end in .delta, as those of spectral shifts do", weight=MARKED)


def _split(name: str) -> tuple[str, str]:
    return name.removesuffix(_SUFFIX), "delta"


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    for module in all_modules(base):
        if module.shape is not None and module.component in {"unet", "text_encoder"}:
            for path in spelled_paths(module):
                yield path, module


def _unmappable(spelling: str, roles: frozenset[str]) -> str:
    last = spelling.rpartition(".")[2]
    if roles == {"delta"} and "norm" in last:
        return "the shift of a norm, which scales it by an amount that only the base's own weight tells"
    return ""


DIALECT = Dialect(
    name="svdiff",
    summary="svdiff-pytorch's spectral shifts",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: lambda _spelling, _rank, _alpha: 1.0,
    unmappable=_unmappable,
)
