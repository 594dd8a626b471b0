"""peft's LoRA configuration, as it lies beside a PEFT file and, since 2025, in the header of a diffusers file.

scale = lora_alpha / rank, or lora_alpha / sqrt(rank) with use_rslora (arXiv 2312.03732). The rank is that of the
tensors: a configuration may disagree with them, and they are what is applied.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lorax.errors import BadFile, Unsupported

_DEFAULT_ALPHA = 8.0
_DEFAULT_RANK = 8
_DEFAULT_GROUP = 16
_PATTERNS = 20_000
_PATTERN_CHARACTERS = 300
_LITERAL = re.compile(r"[\w.]+")
_ESCAPES = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]")
_CHANGED_BASE = re.compile(r"(pissa|olora|corda|loftq|lora_ga).*")
_FOREIGN_FIELDS = {
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "layer_replication": "replicated layers, which the base model does not have",
    "trainable_token_indices": "trained tokens, which another model does not have",
    "kasa_config": "KaSA, which cuts the base model down",
    "arrow_config": "Arrow routing, which weighs adapters by the input",
}
_FOREIGN_BIAS = {"all", "lora_only"}
_WITHOUT_ALPHA = frozenset({"IA3", "OFT", "BOFT"})
_NEUMANN_TERMS = 5
_KINDS = frozenset({"LORA", "LOHA", "LOKR"}) | _WITHOUT_ALPHA


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Holds what of a configuration decides the strength of an update, and the base model it names.

    kind: peft_type; parameters: target_parameters, such as "mlp.experts.down_proj"; group: how many columns share one
    of the down factor (QA-LoRA), 0 where none do.
    """

    alpha: float
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    base_model: str
    kind: str = "LORA"
    rank: int = _DEFAULT_RANK
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    group: int = 0

    def scale(self, module: str, rank: int) -> float:
        """Gives the scale of a module from its path inside the model and the rank of its tensors, 0 for none.

        peft divides by the rank of the configuration where the factors of LoKr have none.
        """
        if self.kind in _WITHOUT_ALPHA or (rank == 0 and self.kind == "LORA"):
            return 1.0
        alpha = _matching(self.alpha_pattern, module, self.alpha)
        rank = rank or self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def rank_of(self, module: str) -> int:
        """Gives the rank that the configuration sets for a module."""
        return int(_matching(self.rank_pattern, module, self.rank))


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that fits the end of a path, as peft matches them."""
    for pattern, value in patterns.items():
        if _LITERAL.fullmatch(pattern):
            found = module == pattern or module.endswith(f".{pattern}")
        else:
            found = re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None
        if found:
            return value
    return default


def load_json(path: Path, *, limit_bytes: int, where: str) -> dict[str, object]:
    """Reads a JSON object from a file of bounded size. Raises BadFile("bad-config")."""
    if not path.is_file():
        _refuse(f"there is no file {path.name}", where)
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        _refuse(f"{path.name} is larger than {limit_bytes} bytes", where)
    return parse_json(content, where=where)


def parse_json(content: bytes | str, *, where: str) -> dict[str, object]:
    """Reads a JSON object. Raises BadFile("bad-config")."""
    try:
        found = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(f"the configuration is not JSON: {error}", where)
    if not isinstance(found, dict):
        _refuse(f"the configuration is {type(found).__name__}; a JSON object is expected", where)
    return found


def parse_config(fields: Mapping[str, object], *, where: str) -> PeftConfig:
    """Reads a configuration. Raises BadFile for nonsense, Unsupported for what cannot be moved."""
    kind = str(fields.get("peft_type") or "LORA").upper()
    _refuse_foreign(fields, kind, where)
    alpha = fields.get("alpha" if kind in {"LOHA", "LOKR"} else "lora_alpha", _DEFAULT_ALPHA)
    rank = _number(fields.get("r", _DEFAULT_RANK), "r", where)
    group = _number(fields.get("qalora_group_size", _DEFAULT_GROUP), "qalora_group_size", where)
    if min(rank, group) < (0 if kind in _WITHOUT_ALPHA else 1):
        _refuse(f"r is {rank:g} and qalora_group_size {group:g}; numbers above zero are expected", where)
    return PeftConfig(
        alpha=_number(alpha, "lora_alpha", where),
        alpha_pattern=_patterns(fields, "alpha_pattern", where),
        rank_stabilised=fields.get("use_rslora") is True,
        base_model=str(fields.get("base_model_name_or_path") or ""),
        kind=kind,
        rank=int(rank),
        rank_pattern=_patterns(fields, "rank_pattern", where),
        parameters=_texts(fields, "target_parameters", where),
        group=int(group) if fields.get("use_qalora") else 0,
    )


def _patterns(fields: Mapping[str, object], key: str, where: str) -> dict[str, float]:
    patterns = fields.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _PATTERNS:
        _refuse(f"{key} is {str(patterns)[:60]}; at most {_PATTERNS} names or patterns are expected", where)
    numbers = {str(pattern): _number(value, key, where) for pattern, value in patterns.items()}
    for pattern in numbers:
        _check_pattern(pattern, where)
    if key == "rank_pattern" and any(value < 1 for value in numbers.values()):
        _refuse(f"{key} holds a rank below one", where)
    return numbers


def _texts(fields: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    found = fields.get(key) or []
    if not isinstance(found, list) or len(found) > _PATTERNS or not all(isinstance(text, str) for text in found):
        _refuse(f"{key} is {str(found)[:60]}; a list of names is expected", where)
    return tuple(found)


def common_fields(
    scales: Mapping[str, tuple[int, float]], *, magnitudes: bool = False, biases: bool = False
) -> dict[str, object]:
    """Gives the configuration of modules with (rank, scale) each, with only the fields that every peft reads.

    The commonest rank and alpha are the defaults; rank_pattern and alpha_pattern name the modules that differ.
    magnitudes, biases: whether there are magnitudes (DoRA) or biases beside the factors, fields that newer peft reads.
    """
    newer = {key: True for key, there in (("use_dora", magnitudes), ("lora_bias", biases)) if there}
    ranks = {module: rank for module, (rank, _) in scales.items()}
    alphas = {module: _short(rank * scale) for module, (rank, scale) in scales.items()}
    rank, alpha = _commonest(ranks.values(), 8), _commonest(alphas.values(), _DEFAULT_ALPHA)
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_pattern(module): own for module, own in sorted(ranks.items()) if own != rank},
        "alpha_pattern": {_pattern(module): own for module, own in sorted(alphas.items()) if own != alpha},
        "target_modules": sorted(scales),
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "inference_mode": True,
        **newer,
    }


def _pattern(module: str) -> str:
    # A pattern is matched at the end of a path; whether `text_model.` comes before depends on the program.
    return module.removeprefix("text_model.")


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _commonest(values: Iterable[float], default: float) -> float:
    ranked = Counter(values).most_common(1)
    return ranked[0][0] if ranked else default


def _refuse_foreign(fields: Mapping[str, object], kind: str, where: str) -> None:
    found = [name for key, name in _FOREIGN_FIELDS.items() if fields.get(key)]
    if kind not in _KINDS:
        method = foreign_kind(kind)
        found.append(f"peft_type {kind[:40]}" + (f" ({method})" if method else ""))
    terms = fields.get("num_cayley_neumann_terms", _NEUMANN_TERMS)
    if kind == "OFT" and (fields.get("use_cayley_neumann") is not True or terms != _NEUMANN_TERMS):
        found.append(f"another transform than the Neumann series of {_NEUMANN_TERMS} terms")
    if fields.get("bias") in _FOREIGN_BIAS:
        found.append("trained biases in place of the model's own")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and _CHANGED_BASE.fullmatch(start.lower()):
        found.append(f"init_lora_weights {start[:40]}, which changes the base model itself")
    if found:
        message = f"the configuration asks for {', '.join(found)}; that cannot be moved"
        raise Unsupported("unsupported-algorithm", message, where=where)


def foreign_kind(kind: str) -> str:
    """Gives in words what a peft_type is that is no change of weights, "" for those that are or that nobody knows."""
    if kind in {"PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"}:
        return "learnt prompts"
    return {"ADAPTION_PROMPT": "learnt prompts with gates", "CARTRIDGE": "a trained key-value cache"}.get(kind, "")


def _check_pattern(pattern: str, where: str) -> None:
    """Refuses patterns that could take for ever: long ones, repeated groups, many unbounded repeats."""
    if _LITERAL.fullmatch(pattern):
        return
    plain = _ESCAPES.sub("x", pattern)
    repeats = sum(plain.count(sign) for sign in "*+{")
    if len(pattern) > _PATTERN_CHARACTERS or re.search(r"\)\s*[*+{]", plain) or repeats > 3 or r"\1" in pattern:
        _refuse(f"the pattern {pattern[:80]!r} is too intricate to be matched safely", where)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        _refuse(f"the pattern {pattern[:80]!r} is no regular expression: {error}", where)


def _number(value: object, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        _refuse(f"{field} holds {str(value)[:60]!r}; a number is expected", where)
    return float(value)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _refuse(message: str, where: str) -> NoReturn:
    raise BadFile("bad-config", f"{message}. Fetch the adapter again with its adapter_config.json", where=where)
