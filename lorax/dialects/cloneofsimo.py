"""cloneofsimo: the first LoRA tool for Stable Diffusion, which numbers modules instead of naming them. Only read.

`unet:0:up`, `unet:0:down`, `text_encoder:0:up` …, in the order in which diffusers held the modules in December 2022:
down blocks, up blocks, the middle block last; in a transformer block the attention to itself (q, k, v, out), the gated
projection of the feed-forward part (GEGLU) where it was trained, the attention to the text. A text encoder's layers
have k, v, q, out. The header lists the classes that were trained. scale = 1. Learnt tokens, tensors called `<s1>`,
belong to one text encoder and are left out with a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.bundled import TOKEN, why_bundled
from lorax.dialect import MARKED, Container, Dialect, Evidence
from lorax.naming import NamedModule, own_names

_NAME = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
_TOKEN = re.compile(r"<[^<>]+>")
_BLOCK = re.compile(r"(.*\.transformer_blocks\.\d+)\.attn1\.to_q")
_QUERY = re.compile(r"(.*\.self_attn)\.q_proj")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_SELF = tuple(f"attn1.{part}" for part in _ATTENTION)
_CROSS = tuple(f"attn2.{part}" for part in _ATTENTION)
_WITH_GATES, _WITHOUT_GATES = "unet", "unet without GEGLU"
_PARTS = {_WITH_GATES: (*_SELF, "ff.net.0.proj", *_CROSS), _WITHOUT_GATES: (*_SELF, *_CROSS)}
_PLACES = ("down_blocks", "up_blocks", "mid_block")


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    numbered = sum(_NAME.fullmatch(name) is not None for name in names)
    tokens = sum(_TOKEN.fullmatch(name) is not None for name in names)
    if not numbered or 2 * (numbered + tokens) <= len(names):
        return None
    words = f"{numbered} of {len(names)} tensor names number modules, as unet:0:up does"
    return Evidence(MARKED, words + (f", {tokens} are learnt tokens" if tokens else ""))


def _split(name: str) -> tuple[str, str]:
    if _TOKEN.fullmatch(name):
        return name, TOKEN
    module, _, role = name.rpartition(":")
    return module, role


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    own = {Site(module.component, module.path): module for module in own_names(base)}
    for start, sites in _orders(base).items():
        for number, site in enumerate(sites):
            if site in own:
                yield f"{start}:{number}", own[site]


def _orders(base: BaseModel) -> dict[str, list[Site]]:
    """The modules in the order of their numbers, by what stands before the number."""
    blocks = [match[1] for site in base.sites if site.component == "unet" and (match := _BLOCK.fullmatch(site.path))]
    ordered = [block for place in _PLACES for block in sorted(blocks, key=_natural) if block.startswith(place)]
    layers = [
        match[1] for site in base.sites if site.component == "text_encoder" and (match := _QUERY.fullmatch(site.path))
    ]
    encoder = [
        Site("text_encoder", f"{layer}.{part}")
        for layer in sorted(layers, key=_natural)
        for part in ("k_proj", "v_proj", "q_proj", "out_proj")
    ]
    unet = {
        start: [Site("unet", f"{block}.{part}") for block in ordered for part in parts]
        for start, parts in _PARTS.items()
    }
    return {**unet, "text_encoder": encoder}


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _respell(container: Container) -> Callable[[str], str] | None:
    """Whether the gated projections have numbers follows from the classes in the header, else from the count."""
    found = [match for name in container.file.tensors if (match := _NAME.fullmatch(name)) is not None]
    numbers = {int(match[2]) for match in found if match[1] == "unet"}
    with_gates = _gates_named(container.file.metadata.get("unet", ""))
    if with_gates is None:
        with_gates = (max(numbers, default=-1) + 1) % len(_PARTS[_WITH_GATES]) == 0
    if with_gates:
        return None
    return lambda spelling: re.sub(r"^unet:", f"{_WITHOUT_GATES}:", spelling)


def _gates_named(classes: str) -> bool | None:
    try:
        found = json.loads(classes)
    except (ValueError, RecursionError):
        return None
    return "GEGLU" in found if isinstance(found, list) else None


DIALECT = Dialect(
    name="cloneofsimo",
    summary="cloneofsimo's lora of 2022, modules by number",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: lambda _spelling, _rank, _alpha: 1.0,
    respell=_respell,
    unmappable=lambda spelling, _roles: why_bundled(spelling),
)
