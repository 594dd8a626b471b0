"""The experts of a mixture as sites of their own, whether a checkpoint keeps each apart or all of a layer stacked.

Checkpoints have `experts.3.gate_proj`, `experts.3.up_proj` and `experts.3.down_proj`; models of transformers 5 hold
`experts.gate_up_proj` and `experts.down_proj`, of which each expert is a site: `experts.gate_up_proj[3]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lorax.stored import Joined, Plain, Stored

_APART = re.compile(r"(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
_STACKED = re.compile(r".+\.experts\.(gate_up_proj|down_proj)")


def with_experts(parameters: Mapping[str, Stored]) -> dict[str, Stored]:
    """Gives the parameters with one weight for each expert's two layers, `….experts.gate_up_proj[3].weight`."""
    found: dict[str, Stored] = {}
    for name, stored in parameters.items():
        if (apart := _APART.fullmatch(name)) is not None:
            found |= _one_expert(parameters, stored, apart)
        elif _STACKED.fullmatch(name) and isinstance(stored, Plain) and len(stored.shape) == 3:
            found |= dict(_unstacked(name, stored))
        else:
            found[name] = stored
    return found


def _one_expert(parameters: Mapping[str, Stored], stored: Stored, apart: re.Match[str]) -> dict[str, Stored]:
    stem, number, part = apart.groups()
    if part == "down_proj":
        return {f"{stem}.down_proj[{number}].weight": stored}
    gate = parameters.get(f"{stem}.{number}.gate_proj.weight")
    up = parameters.get(f"{stem}.{number}.up_proj.weight")
    if gate is None or up is None:
        return {apart.group(): stored}
    return {f"{stem}.gate_up_proj[{number}].weight": Joined((gate, up))}


def _unstacked(name: str, stored: Plain) -> Iterator[tuple[str, Stored]]:
    for number in range(stored.shape[0]):
        one = stored.rows(number, number + 1)
        yield f"{name}[{number}].weight", Plain(one.file, replace(one.entry, shape=stored.shape[1:]))
