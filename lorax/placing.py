"""Which sites of a base the modules of a file belong to, and how the update of a fused module falls apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from lorax.adapter import LowRank, Site, Update
from lorax.base_model import BaseModel
from lorax.dialect import Dialect
from lorax.errors import BadFile, Unsupported
from lorax.examine import BIAS_ROLES, Examination, Module, unknown_tensors
from lorax.identify import alias_table, fits
from lorax.naming import NamedModule, Part


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Is where the modules of a file belong: with the module of the base that each one is.

    left_out: (tensor name, why it has no effect); unknown: names of tensors that belong to nothing.
    """

    modules: tuple[tuple[Module, NamedModule], ...]
    left_out: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]


def place(examination: Examination, base: BaseModel) -> Placed:
    """Finds the module of the base for each module of a file.

    Raises BadFile for one that has another shape or that two modules of the file claim.
    """
    aliases = alias_table(base, examination.dialect)
    found: list[tuple[Module, NamedModule]] = []
    left_out = list(examination.left_out)
    unknown: list[str] = []
    for module in examination.modules:
        named = aliases.get(module.spelling)
        if named is not None:
            _check_shape(module, named, base)
            found.append((module, named))
        elif reason := _reason_to_leave_out(module, examination.dialect):
            left_out += [(name, reason) for name in module.names()]
        else:
            unknown += module.names()
    unknown += _unknown_vectors(found, base)
    _refuse_twice(found)
    return Placed(tuple(found), tuple(left_out), tuple(unknown))


def require_known(placed: Placed) -> None:
    """Raises Unsupported when a tensor belongs to nothing."""
    if placed.unknown:
        raise unknown_tensors(placed.unknown)


def _reason_to_leave_out(module: Module, dialect: Dialect) -> str:
    return dialect.unmappable(module.spelling, frozenset((*module.entries, *module.vectors)))


def _check_shape(module: Module, named: NamedModule, base: BaseModel) -> None:
    if not fits(module, named):
        wanted = f"{base.name} has {named.shape}" if named.shape is not None else f"{base.name} has no weight there"
        message = f"module {module.spelling!r} patches a weight {module.layout}, {wanted}"
        raise BadFile("bad-shape", message)


def _unknown_vectors(found: Sequence[tuple[Module, NamedModule]], base: BaseModel) -> list[str]:
    """Changes of biases and norms that the base does not have, or has in another length."""
    return [
        entry.name
        for module, named in found
        for role, entry in module.vectors.items()
        if sum(base.vectors.get(vector_site(part, role), 0) for part in named.parts) != entry.shape[0]
        or len(entry.shape) != 1
    ]


def vector_site(part: Part, role: str) -> Site:
    """Gives the parameter that a vector of this role changes."""
    return Site(part.site.component, f"{part.site.path}.{'bias' if role in BIAS_ROLES else 'weight'}")


def _refuse_twice(found: Sequence[tuple[Module, NamedModule]]) -> None:
    owners: dict[tuple[Site, str], Module] = {}
    for module, named in found:
        kinds = (["weight"] if module.algorithm is not None else []) + sorted(module.vectors)
        for key in ((part.site, kind) for part in named.parts for kind in kinds):
            if key in owners:
                message = f"{owners[key].spelling!r} and {module.spelling!r} are two spellings of {key[0]}"
                raise BadFile("duplicate-tensor", message)
            owners[key] = module


def split_update(update: Update, named: NamedModule, spelling: str) -> Iterator[tuple[Site, Update]]:
    """Gives what each site has of the update of a module.

    A fused low-rank update whose up factor is block-diagonal falls apart into the ranks of its blocks; otherwise every
    part keeps the whole down factor and its rows of the up factor. Parts that are not changed are left out.
    """
    if named.experts:
        yield from _experts(update, named, spelling)
    elif len(named.parts) == 1:
        (part,) = named.parts
        yield part.site, _unswapped(update, part, spelling)
    elif isinstance(update, LowRank):
        yield from _low_rank_parts(update, named)
    else:
        for part in named.parts:
            begin, end = part.rows or (0, 0)
            yield part.site, update.rows(begin, end)


def _low_rank_parts(update: LowRank, named: NamedModule) -> Iterator[tuple[Site, Update]]:
    slices = {part.site: update.up[slice(*(part.rows or ()))] for part in named.parts}
    used = {site: up.abs().amax(dim=0).nonzero().flatten() for site, up in slices.items()}
    changed = [site for site in slices if len(used[site])]
    for site in changed or slices:
        columns = _own_columns(site, used, changed)
        if columns is None:
            yield site, replace(update, up=slices[site])
        else:
            yield site, replace(update, up=slices[site][:, columns].contiguous(), down=update.down[columns])


def _own_columns(site: Site, used: Mapping[Site, Tensor], changed: Sequence[Site]) -> slice | None:
    """The columns of the up factor that only this part uses, None where parts share columns.

    Blocks of equal width are preferred, for a column of a block may happen to be zero.
    """
    if len(changed) < 2:
        return None
    spans = {each: (int(used[each].min()), int(used[each].max()) + 1) for each in changed}
    ordered = sorted(changed, key=lambda each: spans[each])
    if any(spans[one][1] > spans[other][0] for one, other in pairwise(ordered)):
        return None
    return slice(*_widened(spans, ordered)[site])


def _widened(spans: Mapping[Site, tuple[int, int]], ordered: Sequence[Site]) -> dict[Site, tuple[int, int]]:
    """Blocks as they were put together: of one width where that explains every span, else as they are."""
    count = len(ordered)
    width = -(-spans[ordered[-1]][1] // count)
    equal = {site: (index * width, (index + 1) * width) for index, site in enumerate(ordered)}
    whole = all(equal[site][0] <= spans[site][0] and spans[site][1] <= equal[site][1] for site in ordered)
    return equal if whole else dict(spans)


def _experts(update: Update, named: NamedModule, spelling: str) -> Iterator[tuple[Site, Update]]:
    """Takes apart peft's target_parameters.

    down is (experts*rank, in), expert by expert; up is (out, rank*experts), rank by rank.
    """
    if not isinstance(update, LowRank) or update.rank % len(named.parts):
        message = f"module {spelling!r} stacks {len(named.parts)} experts; a LoRA of equal rank for each is expected"
        raise Unsupported("unsupported-algorithm", message)
    count, rank = len(named.parts), update.rank // len(named.parts)
    ups = update.up.reshape(update.out_features, rank, count)
    for expert, part in enumerate(named.parts):
        down = update.down[expert * rank : (expert + 1) * rank]
        yield part.site, LowRank(ups[:, :, expert].contiguous(), down, update.scale)


def _unswapped(update: Update, part: Part, spelling: str) -> Update:
    if not part.swapped:
        return update
    if isinstance(update, LowRank):
        return replace(update, up=torch.cat(update.up.chunk(2)[::-1]))
    message = f"module {spelling!r} keeps the halves of its weight in another order; only LoRA can follow that"
    raise Unsupported("unsupported-algorithm", message)
