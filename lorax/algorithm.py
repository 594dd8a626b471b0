"""What an algorithm, the tensor algebra of an update, has to declare; and which others are recognised and refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, SiteShape
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Tells what the tensors of one module add up to: the shape of the weight they patch, and their rank."""

    shape: SiteShape
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Algorithm:
    """Describes one way of storing an update.

    required, optional: the roles of a module's tensors;
    layout(entries by role, limits): raises BadFile when shapes do not fit each other or the limits;
    decode(tensors by role, scale, kernel): the update, float32; kernel is that of the site.
    """

    name: str
    summary: str
    required: frozenset[str]
    optional: frozenset[str]
    layout: Callable[[Mapping[str, TensorEntry], ReadLimits], Layout]
    decode: Callable[[Mapping[str, Tensor], float, tuple[int, int] | None], LowRank]

    def claims(self, roles: frozenset[str]) -> bool:
        """Tells whether a module with these roles is of this algorithm, complete or not."""
        return roles <= self.required | self.optional


FOREIGN: tuple[tuple[str, str], ...] = (
    (r"dora_scale|lora_magnitude_vector.*|magnitude", "DoRA"),
    (r"hada_.*", "LoHa"),
    (r"lokr_.*", "LoKr"),
    (r"lora_mid.*", "LoRA with a Tucker core (lora_mid)"),
    (r"oft_.*|boft_.*", "OFT"),
    (r"ia3_l|on_input", "IA3"),
    (r"lora_[AB]\.bias|lora_(up|down)\.bias", "LoRA with a bias"),
    (r"lora_embedding_[AB].*", "LoRA of an embedding"),
    (r"(a1|a2|b1|b2|bm)(\.weight)?", "GLoRA"),
    (r"(q_layer|p_layer)\.weight|lambda_layer", "T-LoRA"),
    (r"vera_.*|randlora_.*|fourierft_.*|waveft_.*|shira_.*|miss_.*|road_.*", "one of peft's other methods"),
    (r"lora_(velora|monteclora)_.*", "a variant of LoRA with further tensors"),
    (r"trainable_tokens_delta|modules_to_save.*", "fully trained parts (modules_to_save)"),
    (r"diff|diff_b|w_norm|b_norm|set_weight|reshape_weight|weight|bias", "full weights"),
    (r"delta", "SVDiff"),
    (r"string_to_param.*|clip_[lg].*|t5.*", "a bundled textual inversion"),
)
"""(pattern of a whole role, algorithm) for what this version recognises and refuses; an algorithm's own file wins."""

NOT_ADAPTERS: tuple[tuple[str, str], ...] = (
    (r"emb_params|string_to_param.*|<[^>]+>|clip_[lg]", "a textual inversion embedding"),
    (r"bundle_emb\..*", "a bundled textual inversion embedding"),
    (r"lora_controlnet|control_model\..*", "a ControlNet"),
    (r"prompt_encoder\..*|prompt_embeddings", "a prompt or prefix adapter"),
    (r".*\.delta", "SVDiff"),
    (r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\..*", "a full checkpoint"),
)
"""(pattern of a whole tensor name, what the file is) for files whose every tensor says that they are no LoRA."""


def foreign_algorithm(role: str, name: str) -> str:
    """Gives the algorithm that a tensor belongs to by its role or its whole name, "" when nobody knows it."""
    found = next((algorithm for pattern, algorithm in FOREIGN if re.fullmatch(pattern, role)), "")
    return found or no_adapter([name])


def no_adapter(names: Sequence[str]) -> str:
    """Gives what a file is whose every tensor name says that it is no LoRA, "" for other files."""
    return next((what for pattern, what in NOT_ADAPTERS if all(re.fullmatch(pattern, name) for name in names)), "")
