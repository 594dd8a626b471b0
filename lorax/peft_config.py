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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lorax.errors import BadFile, Unsupported

_DEFAULT_ALPHA = 8.0
_PATTERNS = 20_000
_PATTERN_CHARACTERS = 300
_LITERAL = re.compile(r"[\w.]+")
_ESCAPES = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]")
_CHANGED_BASE = re.compile(r"(pissa|olora|corda|loftq|lora_ga).*")
_FOREIGN_FIELDS = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "target_parameters": "LoRA of single parameters",
    "layer_replication": "replicated layers",
    "modules_to_save": "fully trained parts (modules_to_save)",
    "trainable_token_indices": "trained tokens",
    "lora_bias": "LoRA with a bias",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
}
_FOREIGN_BIAS = {"all", "lora_only"}


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Holds what of a configuration decides the strength of an update, and the base model it names."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    base_model: str

    def scale(self, module: str, rank: int) -> float:
        """Gives the scale of a module from its path inside the model and the rank of its tensors."""
        alpha = self._alpha_of(module)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def _alpha_of(self, module: str) -> float:
        for pattern, alpha in self.alpha_pattern.items():
            if _LITERAL.fullmatch(pattern):
                found = module == pattern or module.endswith(f".{pattern}")
            else:
                found = re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None
            if found:
                return alpha
        return self.alpha


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
    """Reads a configuration. Raises BadFile for nonsense, Unsupported for what is not plain LoRA."""
    _refuse_foreign(fields, where)
    patterns = fields.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or len(patterns) > _PATTERNS:
        _refuse(f"alpha_pattern is {str(patterns)[:60]}; at most {_PATTERNS} names or patterns are expected", where)
    alphas = {str(key): _number(value, "alpha_pattern", where) for key, value in patterns.items()}
    for pattern in alphas:
        _check_pattern(pattern, where)
    alpha = fields.get("lora_alpha", _DEFAULT_ALPHA)
    return PeftConfig(
        alpha=_number(alpha, "lora_alpha", where),
        alpha_pattern=alphas,
        rank_stabilised=fields.get("use_rslora") is True,
        base_model=str(fields.get("base_model_name_or_path") or ""),
    )


def common_fields(scales: Mapping[str, tuple[int, float]]) -> dict[str, object]:
    """Gives the configuration of modules with (rank, scale) each, with only the fields that every peft reads.

    The commonest rank and alpha are the defaults; rank_pattern and alpha_pattern name the modules that differ.
    """
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
    }


def _pattern(module: str) -> str:
    # A pattern is matched at the end of a path; whether `text_model.` comes before depends on the program.
    return module.removeprefix("text_model.")


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _commonest(values: Iterable[float], default: float) -> float:
    ranked = Counter(values).most_common(1)
    return ranked[0][0] if ranked else default


def _refuse_foreign(fields: Mapping[str, object], where: str) -> None:
    kind = str(fields.get("peft_type") or "LORA")
    found = [name for key, name in _FOREIGN_FIELDS.items() if fields.get(key)]
    if kind.upper() != "LORA":
        found.append(f"peft_type {kind[:40]}")
    if fields.get("bias") in _FOREIGN_BIAS:
        found.append("trained biases")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and _CHANGED_BASE.fullmatch(start.lower()):
        found.append(f"init_lora_weights {start[:40]}, which changes the base model itself")
    if found:
        message = f"the configuration asks for {', '.join(found)}; this version moves plain LoRA"
        raise Unsupported("unsupported-algorithm", message, where=where)


def _check_pattern(pattern: str, where: str) -> None:
    """Refuses patterns that could take for ever: long ones, repeated groups, many unbounded repeats."""
    if _LITERAL.fullmatch(pattern):
        return
    plain = _ESCAPES.sub("x", pattern)
    repeats = sum(plain.count(sign) for sign in "*+{")
    if len(pattern) > _PATTERN_CHARACTERS or re.search(r"\)\s*[*+{]", plain) or repeats > 3 or r"\1" in pattern:
        _refuse(f"alpha_pattern {pattern[:80]!r} is too intricate to be matched safely", where)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        _refuse(f"alpha_pattern {pattern[:80]!r} is no regular expression: {error}", where)


def _number(value: object, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        _refuse(f"{field} holds {str(value)[:60]!r}; a number is expected", where)
    return float(value)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _refuse(message: str, where: str) -> NoReturn:
    raise BadFile("bad-config", f"{message}. Fetch the adapter again with its adapter_config.json", where=where)
