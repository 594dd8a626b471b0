"""What is recognised by its names and refused with its own name: other methods, and files that are no adapters.

An algorithm that has a file of its own in lorax/algorithms is not listed here, whether it is moved or refused there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

FOREIGN: tuple[tuple[str, str], ...] = (
    (r"vera_.*", "VeRA"),
    (r"randlora_.*", "RandLoRA"),
    (r"fourierft_.*", "FourierFT"),
    (r"waveft_.*", "WaveFT"),
    (r"shira_.*", "SHiRA"),
    (r"miss_.*|bone_.*", "MiSS or Bone"),
    (r"road_.*", "RoAd"),
    (r"hra_.*", "HRA"),
    (r"vblora_.*", "VB-LoRA"),
    (r"ln_tuning_.*", "LN tuning"),
    (r"c3a_.*", "C3A"),
    (r"poly_lora_.*", "Poly"),
    (r"xlora_.*|.*internal_xlora_.*", "X-LoRA"),
    (r"lora_E|lora_ranknum|ranknum", "AdaLoRA"),
    (r"gralora_.*", "GraLoRA"),
    (r"delora_.*", "DeLoRA"),
    (r"glora_.*", "peft's GLoRA"),
    (r"hira_.*", "HiRA"),
    (r"pvera_.*", "PVeRA"),
    (r"frod_.*", "FRoD"),
    (r"psoft_.*", "PSOFT"),
    (r"tinylora_.*", "TinyLoRA"),
    (r"unilora_.*", "Uni-LoRA"),
    (r"lily_.*", "Lily"),
    (r"deft_.*", "DEFT"),
    (r"adamss_.*", "AdaMSS"),
    (r"(peanut|shadow|beft|supertuning)_.*", "another method of peft"),
    (r"osf_.*", "OSF"),
    (r"lora_diag", "a variant of LoRA with further tensors"),
    (r"oft_embedding_R.*", "OFT of an embedding"),
    (r"lokr_t1", "LoKr with a core for its first factor"),
    (r"cartridge_.*", "a cartridge"),
    (r"lora_(velora|monteclora|arrow)_.*", "a variant of LoRA with further tensors"),
    (r"trainable_tokens_delta", "trained tokens"),
    (r"set_weight|reshape_weight", "a whole weight or shape that replaces the model's"),
    (r"adaption_(prompt|gate)", "LLaMA-Adapter"),
    (r"(adapter_)?(down|up)_(project|proj)(ection)?\.(weight|bias)", "bottleneck adapters"),
    (r"string_to_param.*|clip_[lg].*|t5.*", "a bundled textual inversion"),
)
"""(pattern of a whole role, method) for what this version recognises and refuses."""

WHY: dict[str, str] = {
    "VeRA": "its shared random matrices are not all in the file",
    "RandLoRA": "its shared random matrices are not all in the file",
    "FourierFT": "the places of its coefficients follow from a seed that is not in the file",
    "WaveFT": "the places of its coefficients follow from a seed that is not in the file",
    "SHiRA": "its update is sparse and of full rank",
    "MiSS or Bone": "its update repeats blocks and, in some variants, depends on the base weight",
    "RoAd": "it rotates pairs of outputs",
    "HRA": "it is a chain of reflections of the base weight",
    "VB-LoRA": "its vectors are shared over all modules",
    "LN tuning": "it replaces whole norms",
    "C3A": "its update is block-circulant and of full rank",
    "Poly": "its skills are routed by task",
    "X-LoRA": "its experts are weighed by the input",
    "AdaLoRA": "its singular values and ranks have to be folded first: save the merged model as plain LoRA",
    "GraLoRA": "its factors are split into blocks",
    "DeLoRA": "it normalises its factors",
    "peft's GLoRA": "half of its change is made of the base weight",
    "HiRA": "its update is multiplied by the base weight",
    "PVeRA": "its shared random matrices are not all in the file",
    "FRoD": "its shared matrices are not all in the file",
    "PSOFT": "it rotates the leading singular directions of the base weight",
    "TinyLoRA": "its projections follow from a seed that is not in the file",
    "Uni-LoRA": "its projection follows from a seed that is not in the file",
    "Lily": "its factors are shared between layers and chosen by the input",
    "DEFT": "it removes a projection of the base weight",
    "AdaMSS": "it works on clusters of the base weight's own subspaces",
    "another method of peft": "nothing says here what its tensors add up to",
    "OFT of an embedding": "it rotates whole embeddings",
    "LoKr with a core for its first factor": "no tool writes it, so nothing says what it means",
    "OSF": "it replaces weights by factors of the base's own",
    "a cartridge": "it is a trained key-value cache",
    "a variant of LoRA with further tensors": "its further tensors choose among samples or routes",
    "trained tokens": "rows of the embedding belong to tokens that another model does not have",
    "a whole weight or shape that replaces the model's": "it would change the layers of the model",
    "LLaMA-Adapter": "it is learnt prompts with gates, not a change of weights",
    "bottleneck adapters": "they are layers added to the model, not a change of its weights",
    "a bundled textual inversion": "its tokens belong to one text encoder",
}
"""Why each of them is refused."""

NOT_ADAPTERS: tuple[tuple[str, str], ...] = (
    (r"emb_params|string_to_param.*|<[^>]+>|clip_[lg]", "a textual inversion embedding"),
    (r"bundle_emb\..*", "a bundled textual inversion embedding"),
    (r"lora_controlnet|control_model\..*", "a ControlNet"),
    (r"(base_model\.)?(prompt_encoder\..*|prompt_embeddings)", "a prompt or prefix adapter"),
    (r"(.*\.)?adaption_(prompt|gate)", "a LLaMA-Adapter"),
    (r".*(\.|_)adapters?\..*(down|up)(_proj|_project|_sampler|\.0|\.)?.*", "bottleneck adapters"),
    (r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\..*", "a full checkpoint"),
    (r"\d+\.\d+\.linear\.\d+\.(weight|bias)", "a hypernetwork"),
    (r"(.*\.)?internal_xlora_classifier\..*", "X-LoRA"),
)
"""(pattern of a whole tensor name, what the file is) for files whose every tensor says that they are no LoRA."""

_CONTROL_MARK = "lora_controlnet"
# Parameters as models hold them; what may be a part of an adapter is none.
_PARAMETER = re.compile(
    r"(?!.*(lora|loha|hada|lokr|oft|ia3|adapter|prompt|_down|_up\b)).+\.(weight|bias)", re.IGNORECASE
)


def foreign_algorithm(role: str, name: str) -> str:
    """Gives the method that a tensor belongs to by its role or its whole name, "" when nobody knows it."""
    found = next((method for pattern, method in FOREIGN if re.fullmatch(pattern, role)), "")
    return found or _matching([name])


def why_refused(method: str) -> str:
    """Gives the reason why a method that foreign_algorithm names is refused, "" where its name says it all."""
    return WHY.get(method, "")


def no_adapter(names: Sequence[str]) -> str:
    """Gives what a file is whose tensor names say that it is no LoRA, "" for other files."""
    if _CONTROL_MARK in names:
        return "a ControlNet"
    parameters = all(map(_PARAMETER.fullmatch, names))
    return _matching(names) or ("a full checkpoint, or a part of one" if parameters else "")


def _matching(names: Sequence[str]) -> str:
    return next((what for pattern, what in NOT_ADAPTERS if all(re.fullmatch(pattern, name) for name in names)), "")
