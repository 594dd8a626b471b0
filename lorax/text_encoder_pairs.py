"""Pairs the text encoders of two pipelines by what they are, never by their number.

CLIP-L is the only text encoder of SD1, the first of SDXL, SD3 and Flux; T5 is Flux's second and SD3's third. Two
encoders are the same when their layers agree in names and shapes. Between two bases of one family (a wider sibling)
equal names are enough, for then nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.correspondence import NO_SITE, OTHER_TEXT_ENCODER, is_text_encoder

_LAYERS = (("text_model", "encoder"), ("encoder", "block"))
Layers = Mapping[str, SiteShape]


def match_text_encoders(source: BaseModel, target: BaseModel) -> dict[Site, Site | str]:
    """Gives each site of the target's text encoders its source, or the reason why it has none."""
    sources = {component: _layers(source, component) for component in _components(source)}
    partners = {
        component: _partner(component, _layers(target, component), sources, family=source.family == target.family)
        for component in _components(target)
        if component.startswith("text_encoder")
    }
    return {site: _origin(site, source, partners) for site in target.sites if is_text_encoder(site)}


def _components(base: BaseModel) -> list[str]:
    return sorted({site.component for site in base.sites})


def _layers(base: BaseModel, component: str) -> Layers:
    """The weights inside the layers of a text encoder, without its projection; nothing for other components."""
    return {
        site.path: shape
        for site, shape in base.sites.items()
        if site.component == component and tuple(site.path.split(".")[:2]) in _LAYERS
    }


def _partner(component: str, layers: Layers, sources: Mapping[str, Layers], *, family: bool) -> str | None:
    """The source component that is the same encoder; the one of the same name where two are."""
    if not layers:
        return component if component in sources and family else None
    same = [name for name, found in sources.items() if found == layers]
    if not same and family:
        same = [name for name, found in sources.items() if found.keys() == layers.keys()]
    return component if component in same else next(iter(same), None)


def _origin(site: Site, source: BaseModel, partners: Mapping[str, str | None]) -> Site | str:
    partner = partners[site.component]
    if partner is None:
        return OTHER_TEXT_ENCODER
    origin = Site(partner, site.path)
    return origin if origin in source.sites else NO_SITE
