"""All families of decoder-only language models, by what their config.json calls them."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.base_model import BaseModel
from lorax.base_models import gemma, llama, phi, qwen
from lorax.errors import BadFile
from lorax.inventories.decoder_config import decoder_base

_READERS = {
    model_type: (module.FAMILY, module.read_decoder)
    for module in (gemma, llama, phi, qwen)
    for model_type in module.MODEL_TYPES
}


def base_from_config(config: Mapping[str, object], *, name: str = "", where: str = "config.json") -> BaseModel:
    """Gives the base model that a decoder's config.json describes, without its weights.

    It has the version of the known base with equal sites, else "custom". name: "" to be called like its version;
    where: the configuration's file, for messages. Raises BadFile (bad-config) for a missing or impossible field, a
    model type that no family of decoders has included.
    """
    model_type = config.get("model_type")
    found = _READERS.get(model_type) if isinstance(model_type, str) else None
    if found is None:
        known = ", ".join(sorted(_READERS))
        raise BadFile(
            "bad-config",
            f"field 'model_type' is {str(model_type)[:80]!r}, known are {known}; give the folder of the base model "
            "with its weights, whose headers tell the rest",
            where=where,
        )
    family, reader = found
    return decoder_base(config, family=family, reader=reader, name=name, where=where)
