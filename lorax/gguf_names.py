"""What llama.cpp calls the parameters of a language model, and the order of the rows of rotated heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lorax.base_model import Family
from lorax.base_models import FAMILIES
from lorax.errors import Stop
from lorax.gguf_file import GgufFile
from lorax.stored import Changed, Stored

_FAMILIES = {
    "llama": "llama", "qwen2": "qwen", "qwen3": "qwen", "gemma": "gemma", "gemma2": "gemma", "gemma3": "gemma",
    "phi2": "phi", "phi3": "phi",
}  # fmt: skip
"""What a file says that the model is -> the family that it belongs to."""
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
_SPECIAL = {
    "gemma2": _FOUR_NORMS,
    "gemma3": _FOUR_NORMS,
    "phi2": {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}
_SPECIAL_TOP = {"phi2": {"output_norm": "model.final_layernorm"}}
_IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_LEFT_OUT = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight")


def speaks_of(gguf: GgufFile) -> Family | None:
    """Gives the family of language models that a file says it is of, None for every other model."""
    name = _FAMILIES.get(gguf.architecture)
    return FAMILIES[name] if name is not None else None


def language_model(gguf: GgufFile, *, where: str) -> Mapping[str, Stored]:
    """Gives the parameters of a language model by their canonical names. Raises Stop for names that are not known."""
    found = dict(_named(gguf))
    unknown = [name for name in gguf.parameters if not _LEFT_OUT.fullmatch(name) and not _canonical(gguf, name)]
    if unknown:
        more = "; mixtures of experts are not read from GGUF" if any("_exps" in name for name in unknown) else ""
        shown = ", ".join(unknown[:3])
        raise Stop(
            f"{where}: {len(unknown)} of its tensors are not known in a {gguf.architecture} model ({shown} …){more}; "
            "give the model as a folder of transformers"
        )
    return found


def _named(gguf: GgufFile) -> Iterator[tuple[str, Stored]]:
    for name, stored in gguf.parameters.items():
        if canonical := _canonical(gguf, name):
            yield canonical, _in_order(gguf, name, stored)


def _canonical(gguf: GgufFile, name: str) -> str:
    kind = gguf.architecture
    if inside := _IN_LAYER.fullmatch(name):
        module = {**_LAYER, **_SPECIAL.get(kind, {})}.get(inside[2])
        return f"model.layers.{inside[1]}.{module}.{inside[3]}" if module else ""
    path, _, leaf = name.rpartition(".")
    module = {**_TOP, **_SPECIAL_TOP.get(kind, {})}.get(path)
    return f"{module}.{leaf}" if module else ""


def _in_order(gguf: GgufFile, name: str, stored: Stored) -> Stored:
    """Undoes what llama.cpp's converter does to queries and keys of llama alone: pairing rows that rotate together.

    A head of d rows lies as 0, d/2, 1, d/2 + 1 … there, and in halves in transformers.
    """
    part = name.split(".")[-2]
    if gguf.architecture != "llama" or part not in {"attn_q", "attn_k"}:
        return stored
    queries = gguf.number("llama.attention.head_count", 0)
    heads = queries if part == "attn_q" else gguf.number("llama.attention.head_count_kv", queries)
    rows = stored.shape[0]
    if heads < 1 or rows % (2 * heads):
        raise Stop(f"{gguf.file.path}: {heads} heads do not divide the {rows} rows of {name}; download the file again")
    return Changed(
        stored,
        stored.shape,
        lambda weight: weight.reshape(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(stored.shape),
        f"halves of {heads} heads",
    )
