"""From a file to an Adapter: examination, base model, place of every module, updates.

Every tensor of the file ends as mapped, as knowingly left out, or as unknown; with one unknown tensor the file is
refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, Site, Update
from lorax.algorithm import Layout
from lorax.background import begun
from lorax.base_model import BaseModel
from lorax.dialect import Strength
from lorax.errors import BadFile, Refused, TryLater, Unsupported
from lorax.examine import AdapterFiles, Examination, Module, examine
from lorax.factors import HALVES, count_non_finite
from lorax.identify import identify
from lorax.loaded_file import Allocate, LoadedFile
from lorax.metadata import carried, dataset_words, trigger_words
from lorax.naming import NamedModule
from lorax.placing import Placed, place, require_known, split_update, vector_site
from lorax.weight_file import ReadLimits

__all__ = ["AdapterFiles", "assemble", "read_adapter"]

_DEFAULT_LIMITS = ReadLimits()
_WORTH_A_THREAD = 2**18
"""Bytes that take longer to be hashed than a thread takes to start."""


def read_adapter(
    files: AdapterFiles,
    *,
    candidates: Sequence[BaseModel],
    labels: Sequence[str] = (),
    limits: ReadLimits = _DEFAULT_LIMITS,
    into: Allocate | None = None,
) -> Adapter:
    """Reads an adapter and finds out which of the candidates it was made for.

    labels: what the catalogue calls the base model; into: gives the memory for the file's bytes, which then are read
    once and cast by nobody: factors of LoRA are views of that memory, in half precision where the file is.
    Raises BadFile for a broken file, Unsupported for one that this version cannot move, TryLater when memory or the
    file gave way; each names the file as the user knows it, the tensor, and what to do.
    """
    name = files.name or str(files.weights)
    try:
        examination = examine(files, limits=limits)
        found = identify(examination, candidates=candidates, labels=labels)
        if found.problem is not None:
            raise found.problem
        if into is not None:
            examination = _loaded(examination, into)
        return assemble(examination, found.base, found.verdict)
    except (MemoryError, RuntimeError) as error:
        # torch tells of memory that ran out in words only.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        advice = "the adapter did not fit into memory; run again with less at once"
        raise TryLater("out-of-memory", advice, where=name) from error
    except (Refused, TryLater) as error:
        raise error.at(name) from error


def _loaded(examination: Examination, into: Allocate) -> Examination:
    container = examination.container
    return replace(examination, container=replace(container, file=LoadedFile.of(container.file, into)))


def assemble(examination: Examination, base: BaseModel, verdict: BaseVerdict) -> Adapter:
    """Reads the tensors of an examined file whose base is known. Raises BadFile, Unsupported, TryLater."""
    placed = place(examination, base)
    require_known(placed)
    file = examination.container.file
    # Hashing takes as long as all the rest and needs no interpreter.
    weights_sha256 = begun(file.weights_sha256) if file.body_bytes > _WORTH_A_THREAD else file.weights_sha256
    reader = _Reader(examination, base)
    for module, named in placed.modules:
        reader.take(module, named)
    for tensor, _ in placed.left_out:
        reader.finite(tensor)
    saved = {entry.name: reader.finite(entry.name) for entry in examination.saved}
    if not saved:
        _refuse_nothing(reader)
    return Adapter(
        updates=reader.updates,
        dialect=examination.dialect.name,
        algorithms=examination.algorithms(),
        dtype=_common_dtype(examination, placed),
        metadata=carried(file.metadata),
        trigger_words=trigger_words(file.metadata),
        base=verdict,
        weights_sha256=weights_sha256(),
        unmappable=placed.left_out,
        vectors=reader.vectors,
        saved=saved,
        notes=tuple(reader.notes),
        dataset_words=dataset_words(file.metadata),
    )


class _Reader:
    """Reads modules one after the other into updates and vectors by site."""

    def __init__(self, examination: Examination, base: BaseModel) -> None:
        self.updates: dict[Site, Update] = {}
        self.vectors: dict[Site, Tensor] = {}
        self.notes: dict[str, None] = {}
        self._examination = examination
        self._base = base
        self._strength: Strength = examination.dialect.strength(examination.container)
        file = examination.container.file
        self._keeps_halves = isinstance(file, LoadedFile)
        self._is_finite = isinstance(file, LoadedFile) and file.is_finite()

    def take(self, module: Module, named: NamedModule) -> None:
        """Reads one module."""
        read = self._as_stored if self._keeps_halves and self._computes_nothing(module) else self.finite
        tensors = {role: self._expanded(role, read(entry.name)) for role, entry in module.entries.items()}
        scale = 1.0
        if module.algorithm is not None and module.layout is not None:
            scale = self._scale(module, module.layout, tensors, experts=len(named.parts) if named.experts else 1)
            self._update(module, named, tensors, scale)
        for role, entry in module.vectors.items():
            self._vector(named, role, self.finite(entry.name) * (scale if role == "lora_bias" else 1.0))

    def finite(self, name: str) -> Tensor:
        """Reads a tensor as float32. Raises BadFile when a value is NaN or infinite, in the file or as float32."""
        return self._checked(name, self._examination.container.file.read(name).float())

    def _as_stored(self, name: str) -> Tensor:
        tensor = self._examination.container.file.read(name)
        return self._checked(name, tensor if tensor.dtype in HALVES else tensor.float())

    def _computes_nothing(self, module: Module) -> bool:
        """Whether the tensors of a module become an update as they are, up to cutting and reshaping."""
        is_lora = module.algorithm is not None and module.algorithm.name == "lora"
        return is_lora and "mid" not in module.entries and self._examination.expansion is None

    def _checked(self, name: str, tensor: Tensor) -> Tensor:
        if not self._is_finite and (count := count_non_finite(tensor)):
            raise BadFile("non-finite", f"{count} of {tensor.numel()} values of tensor {name!r} are NaN or infinite")
        return tensor

    def _scale(self, module: Module, layout: Layout, tensors: Mapping[str, Tensor], *, experts: int) -> float:
        alpha = float(tensors["alpha"]) if "alpha" in tensors else None
        if alpha == 0 and layout.rank:
            self.notes["alpha is 0, which is read as: the rank"] = None
        return self._strength(module.spelling, layout.rank // experts, alpha)

    def _update(self, module: Module, named: NamedModule, tensors: Mapping[str, Tensor], scale: float) -> None:
        decode = module.algorithm.decode if module.algorithm is not None else None
        if decode is None or named.shape is None:
            raise TypeError(f"module {module.spelling!r} was placed without a way to decode it")
        update = decode(tensors, scale, named.shape)
        self._refuse_scaled_bias(update, named, module.spelling)
        self.updates |= dict(split_update(update, named, module.spelling))

    def _refuse_scaled_bias(self, update: Update, named: NamedModule, spelling: str) -> None:
        """An IA3 factor of peft scales the layer's bias as well, by a share of what only the base knows."""
        biases = [vector_site(part, "bias_diff") for part in named.parts]
        if getattr(update, "scales_bias", False) and any(bias in self._base.vectors for bias in biases):
            message = f"module {spelling!r} scales the outputs of a layer with a bias; only the weight can be followed"
            raise Unsupported("unsupported-algorithm", message)

    def _vector(self, named: NamedModule, role: str, vector: Tensor) -> None:
        for part in named.parts:
            site = vector_site(part, role)
            own = vector[slice(*part.rows)] if part.rows is not None and len(named.parts) > 1 else vector
            own = torch.cat(own.chunk(2)[::-1]) if part.swapped else own
            self.vectors[site] = self.vectors[site] + own if site in self.vectors else own

    def _expanded(self, role: str, tensor: Tensor) -> Tensor:
        expansion = self._examination.expansion
        return tensor if expansion is None else expansion.tensor(role, tensor)


def _refuse_nothing(reader: _Reader) -> None:
    vectors = any(bool(vector.any()) for vector in reader.vectors.values())
    if not vectors and all(map(_is_nothing, reader.updates.values())):
        raise BadFile("all-zero", f"all {len(reader.updates)} updates are zero: the adapter changes nothing")


def _is_nothing(update: Update) -> bool:
    norm = getattr(update, "norm", None)  # LoHa and LoKr know theirs without forming factors
    return norm is not None and norm() == 0


def _common_dtype(examination: Examination, placed: Placed) -> torch.dtype:
    """The commonest element type of the file's tensors, alpha left out."""
    factors = [
        entry.name for module, _ in placed.modules for role, entry in module.entries.items() if role != "alpha"
    ] or list(examination.container.file.tensors)
    return Counter(map(examination.container.file.dtype, factors)).most_common(1)[0][0]
