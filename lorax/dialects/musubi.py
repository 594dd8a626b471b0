"""musubi: musubi-tuner's spelling, that of sd-scripts for video and later image transformers.

`lora_unet_blocks_0_self_attn_q.lora_down.weight`; modules are called as in the code of the model's makers (Wan,
HunyuanVideo, Z-Image), for FramePack and Qwen-Image as diffusers calls them. scale = alpha / rank. Where sd-scripts has
the same family (Flux) the files are the same, and count as its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.base_model import BaseModel
from lorax.dialect import MARKED, SIGNED, Dialect, EncodedFile, EncodedModule, Evidence, Writing
from lorax.flat_files import alpha_over_rank, flat_file, refuse_saved, refuse_vectors
from lorax.flat_names import MUSUBI_NETWORKS, family_of, flat_evidence, flat_modules, split_flat, trainer_of
from lorax.naming import NamedModule
from lorax.suffixes import KOHYA, LYCORIS

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "lora_unet_"
_OWN = re.compile(
    r"lora_unet__?("
    r"blocks_\d+_(self|cross)_attn_(q|k|v|o|k_img|v_img)|blocks_\d+_ffn_[02]"  # Wan
    r"|double_blocks_\d+_(img|txt)_(mlp_fc[12]|mod_linear|attn_[qkv])|single_blocks_\d+_modulation_linear"  # Hunyuan
    r"|(single_)?transformer_blocks_\d+_\w+"  # FramePack, Qwen-Image
    r"|layers_\d+_(attention_to_\w+|feed_forward_w[123])"  # Z-Image
    r")\..+"
)


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    own = sum(_OWN.fullmatch(name) is not None for name in names)
    if trainer_of(metadata) == "musubi":
        said = f", {metadata['ss_network_module']} for {metadata.get('ss_base_model_version', 'an unnamed model')}"
        return flat_evidence(names, weight=SIGNED, also=said)
    return flat_evidence(names, weight=MARKED, also=f", {own} of them as musubi-tuner alone trains") if own else None


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    components = dict.fromkeys(site.component for site in base.sites)
    prefixes = {"transformer": (_PREFIX,)} if "transformer" in components else {}
    return flat_modules(base, first=family_of(base), prefixes=prefixes)


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "musubi")
    refuse_saved(writing, "musubi")
    network = {"ss_network_module": MUSUBI_NETWORKS.get(writing.base.family, "networks.lora")}
    return [flat_file(modules, {}, writing, suffixes=KOHYA, network=network, naming=family_of(writing.base))]


DIALECT = Dialect(
    name="musubi",
    summary="musubi-tuner: Wan, HunyuanVideo, FramePack, Qwen-Image, Z-Image",
    recognise=_recognise,
    split=lambda name: split_flat(name, LYCORIS),
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    says=frozenset({"lora"}),
    pack=_pack,
)
