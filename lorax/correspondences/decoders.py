"""Two decoder language models: layers in order, roles by name.

Layers go with layers by an even spread, the first with the first and the last with the last (or by likeness, where
weights are at hand). Other widths, other numbers of heads and grouped keys are differences of shape. Query, key and
value in one weight against three, and gate and up in one against two, have no source: a site cannot be a part of a
weight. Rows of the output head are tokens, so heads correspond where the vocabularies are equally large and the family
is the same.
"""

from __future__ import annotations

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.correspondence import FUSED, OTHER_FEED_FORWARD, OTHER_VOCABULARY, Aligner, Matches, Rule, backbone
from lorax.stacks import match_stacks

_LAYERS = "model.layers."
_HEAD = Site("model", "lm_head")
# The output projection of Phi-1 and Phi-2 has a name of its own.
_OTHER_WORDS = {"self_attn.o_proj": "self_attn.dense", "self_attn.dense": "self_attn.o_proj"}
_ATTENTION = frozenset({"qkv_proj", "q_proj", "k_proj", "v_proj"})
_GATED = frozenset({"gate_up_proj", "gate_proj", "up_proj", "down_proj"})


def _is_decoder(base: BaseModel) -> bool:
    return any(site.path.startswith(f"{_LAYERS}0.self_attn.") for site in base.sites)


def _applies(source: BaseModel, target: BaseModel) -> bool:
    return _is_decoder(source) and _is_decoder(target)


def _match(source: BaseModel, target: BaseModel, align: Aligner) -> Matches:
    found = match_stacks(source, backbone(target), align, lambda wanted: _counterpart(wanted, source))
    if _HEAD in target.sites and _HEAD in source.sites:
        vocabularies = {source.sites[_HEAD].out_features, target.sites[_HEAD].out_features}
        same = source.family == target.family and len(vocabularies) == 1
        found[_HEAD] = _HEAD if same else OTHER_VOCABULARY
    return found


def _counterpart(wanted: Site, source: BaseModel) -> Site | str | None:
    """What the source has in place of a site that it lacks: the same role in other words, or a reason."""
    if not wanted.path.startswith(_LAYERS):
        return None
    number, _, role = wanted.path.removeprefix(_LAYERS).partition(".")
    layer = f"{_LAYERS}{number}."
    renamed = Site(wanted.component, layer + _OTHER_WORDS.get(role, role))
    if renamed in source.sites:
        return renamed
    part = role.rpartition(".")[2]
    if role.startswith("self_attn.") and part in _ATTENTION:
        return FUSED
    if not role.startswith("mlp."):
        return None
    gated = part in _GATED and Site(wanted.component, f"{layer}mlp.down_proj") in source.sites
    return FUSED if gated else OTHER_FEED_FORWARD


RULE = Rule(
    name="decoders",
    summary="language models of any width and depth: layers aligned in order, roles by name",
    order=60,
    applies=_applies,
    match=_match,
)
