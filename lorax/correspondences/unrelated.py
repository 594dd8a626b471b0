"""Any two bases that no other rule knows: nothing is said, whatever names they happen to share.

Their text encoders may still be the same and are paired as always.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import UNRELATED, Aligner, Matches, Rule, backbone


def _applies(_source: BaseModel, _target: BaseModel) -> bool:
    return True


def _match(_source: BaseModel, target: BaseModel, _align: Aligner) -> Matches:
    return dict.fromkeys(backbone(target), UNRELATED)


RULE = Rule(
    name="unrelated",
    summary="bases that no other rule knows: only text encoders that both have",
    order=1000,
    applies=_applies,
    match=_match,
)
