"""Converts many adapter files by one plan, files in and files out: reading, computing and writing overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.convert import Conversion, NormShares, SiteReport, conversion_id, convert_adapters, norm_shares
from lorax.errors import Refused, TryLater, Unsupported
from lorax.examine import AdapterFiles
from lorax.loaded_file import Allocate
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.plan import Plan
from lorax.read import read_adapter
from lorax.streaming import GROUP_BYTES, Done, streamed
from lorax.weight_file import WrittenFile
from lorax.write import dialect_for, writable_dialect, write_adapter_files

_NOTHING = NormShares(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ConvertedFiles:
    """Is what became of one adapter.

    written: the files, weights first, empty where there is a problem; sites, shares: as in the report of a conversion;
    problem: why the adapter could not be read, moved or written.
    """

    source: AdapterFiles
    written: tuple[WrittenFile, ...] = ()
    dialect: str = ""
    conversion_id: str = ""
    sites: tuple[SiteReport, ...] = ()
    shares: NormShares = _NOTHING
    problem: Refused | TryLater | OSError | None = None


def convert_files(
    plan: Plan,
    sources: Iterable[AdapterFiles],
    *,
    folder: Callable[[AdapterFiles], Path],
    dialect: str | None = None,
    target: BaseModel | None = None,
    weight: Callable[[Site], Tensor] | None = None,
    group_bytes: int = GROUP_BYTES,
) -> Iterator[ConvertedFiles]:
    """Converts adapters of the plan's source base and gives what became of each, in their order.

    folder: where the files of an adapter go, one folder for each; dialect: what is written, None for the one that each
    adapter came in; target: the plan's target base under another name; weight: gives the source base's weight at a
    site, None where it is not at hand, so that adapters whose changes depend on it end as "needs-base"; group_bytes: of
    files that are converted together, of which three times as much is in memory.
    A file that cannot be read, moved or written costs nobody else the turn: it ends with its problem. Raises Stop for a
    dialect that cannot be written.
    """
    if dialect is not None:
        writable_dialect(dialect)
    work = _Work(plan, plan.target_base if target is None else target, dialect, folder, weight)
    return streamed(
        sources,
        size=_bytes_of,
        read=work.read,
        compute=work.convert,
        write=work.write,
        group_bytes=group_bytes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    plan: Plan
    target: BaseModel
    dialect: str | None
    folder: Callable[[AdapterFiles], Path]
    weight: Callable[[Site], Tensor] | None

    def read(self, source: AdapterFiles, into: Allocate) -> LoweredAdapter | Done[ConvertedFiles]:
        try:
            return lower_adapter(read_adapter(source, candidates=[self.plan.source_base], into=into), self.weight)
        except (Refused, TryLater, OSError) as problem:
            return Done(ConvertedFiles(source, problem=problem))

    def convert(self, lowered: list[LoweredAdapter]) -> list[Conversion | Unsupported]:
        return convert_adapters(self.plan, [each.adapter for each in lowered], target=self.target)

    def write(self, source: AdapterFiles, lowered: LoweredAdapter, result: Conversion | Unsupported) -> ConvertedFiles:
        if isinstance(result, Unsupported):
            return ConvertedFiles(source, problem=result.at(source.name or str(source.weights)))
        try:
            return self._written(source, lowered.adapter, result)
        except (Refused, TryLater, OSError) as problem:
            return ConvertedFiles(source, sites=result.sites, shares=norm_shares(result), problem=problem)

    def _written(self, source: AdapterFiles, adapter: Adapter, result: Conversion) -> ConvertedFiles:
        dialect = self.dialect or dialect_for(adapter)
        dtype = str(adapter.dtype).removeprefix("torch.")
        weights = adapter.weights_sha256
        name = conversion_id(weights, plan=self.plan, target=self.target, dialect=dialect, dtype=dtype)
        written = write_adapter_files(
            result.adapter,
            self.folder(source),
            dialect=dialect,
            base=self.target,
            stem=Path(source.name or source.weights).stem,
            metadata={"lorax_conversion_id": name, "lorax_method": self.plan.method, "lorax_plan": self.plan.plan_id},
        )
        return ConvertedFiles(source, written, dialect, name, result.sites, norm_shares(result))


def _bytes_of(source: AdapterFiles) -> int:
    """The size of the weights; a file that is not there says so when it is read."""
    try:
        return source.weights.stat().st_size
    except OSError:
        return 0
