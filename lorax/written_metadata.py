"""What a written header says of the adapter and of the base model it is now for, in the words of other programs.

modelspec.* is Stability AI's ModelSpec 1.0; ss_* is sd-scripts' own, which most programs look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorax.dialect import EncodedModule, Writing

WEIGHTS_HASH = "sshs_model_hash"
"""The entry for the sha256 of the weights, which the writer of the file knows."""
_OF_THE_SOURCE = frozenset({"ss_network_module", "ss_network_args", "ss_v2", "ss_base_model_version"})
_IMPLEMENTATIONS = {"own": "diffusers", "sgm": "https://github.com/Stability-AI/generative-models"}
_SECOND_GENERATION = frozenset({"sd_v2", "sd_v2_v"})


def spec_entries(writing: Writing, *, naming: str = "own") -> dict[str, str]:
    """Gives the modelspec.* entries: what the source said of its author, licence and use, and the new base.

    naming: the code base whose names the file has.
    """
    from lorax.base_models import spoken_version

    kept = {key: value for key, value in writing.adapter.metadata.items() if key.startswith("modelspec.")}
    kept.pop("modelspec.implementation", None)
    words = writing.adapter.trigger_words
    phrase = {"modelspec.trigger_phrase": ", ".join(words)} if words else {}
    implementation = _IMPLEMENTATIONS.get(naming)
    return {
        "modelspec.title": writing.stem,
        **phrase,
        **kept,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{spoken_version(writing.base)[1]}/lora",
        **({"modelspec.implementation": implementation} if implementation else {}),
    }


def trainer_entries(
    writing: Writing,
    modules: Sequence[EncodedModule],
    *,
    network: Mapping[str, str],
    naming: str,
) -> dict[str, str]:
    """Gives the entries of a file in the manner of sd-scripts, those that name the base rewritten for this one.

    All but WEIGHTS_HASH, which the EncodedFile has to ask for.
    network: ss_network_module and ss_network_args, which tell the writer and the algorithms.
    """
    from lorax.base_models import spoken_version

    version = spoken_version(writing.base)[0]
    carried = {key: value for key, value in writing.adapter.metadata.items() if key not in _OF_THE_SOURCE}
    hashes = writing.base.file_hashes
    return {
        "ss_output_name": writing.stem,
        **carried,
        **spec_entries(writing, naming=naming),
        "ss_network_args": "None",
        **network,
        **_strength(modules),
        "ss_base_model_version": version,
        **({"ss_v2": "True"} if version in _SECOND_GENERATION else {}),
        "ss_sd_model_name": writing.base.name,
        **({"ss_new_sd_model_hash": hashes[0]} if hashes else {}),
    }


def _strength(modules: Sequence[EncodedModule]) -> dict[str, str]:
    ranks = {module.rank for module in modules if module.rank}
    if len(ranks) != 1:
        return {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    (rank,) = ranks
    scales = {module.scale for module in modules if module.scale is not None}
    alpha = f"{next(iter(scales)) * rank:g}" if len(scales) == 1 else "Dynamic"
    return {"ss_network_dim": str(rank), "ss_network_alpha": alpha}
