"""Training one adapter with peft, and writing it as peft writes it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from examples.text.bases import take_step
from examples.text.domains import training_documents
from examples.text.models import OWNER, stream, windows

RANK, ALPHA = 8, 16
MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
STEPS = 300
BATCH, LENGTH = 8, 128
PEAK = 4e-3


@contextmanager
def no_future_warnings() -> Iterator[None]:
    """Keeps quiet about a name that transformers gives up and peft still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def _rate(step: int) -> float:
    """Gives the learning rate of a step: a short rise, then a straight line to zero."""
    return PEAK * min((step + 1) / 20, 1 - step / STEPS)


def train_adapter(base: LlamaForCausalLM, domain: str, seed: int, steps: int = STEPS) -> PeftModel:
    """Trains an adapter for a domain on a base, which is changed in place; the same seed gives the same adapter."""
    torch.manual_seed(1000 + seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
    with no_future_warnings():
        model = get_peft_model(base, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=PEAK, weight_decay=0.01, fused=True)
    tokens = stream(training_documents(domain))
    generator = torch.Generator().manual_seed(100 + seed)
    for step in range(steps):
        take_step(model, optimiser, windows(tokens, (BATCH, LENGTH), generator), _rate(step), weights)
    return model.eval()


def _card(base: str, domain: str) -> str:
    return f"""---
base_model: {OWNER}/{base}
base_model_relation: adapter
library_name: peft
license: other
license_name: psf-2.0
license_link: https://docs.python.org/3/license.html
tags:
- lora
- peft
- text-generation
---
# {domain}
A LoRA adapter for {OWNER}/{base}, rank {RANK}, trained on the domain `{domain}`, text that Python makes \
out of its own library.
"""


def save_adapter(model: PeftModel, folder: Path, base: str, domain: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors (float16) by peft's own writer, and a card of ours."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = f"{OWNER}/{base}"
    config.inference_mode = True
    config.target_modules = MODULES
    model.to(torch.float16).save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").write_text(_card(base, domain), encoding="utf-8")


def open_adapter(base: LlamaForCausalLM, folder: Path) -> PeftModel:
    """Puts a written adapter on a base, which is changed in place, float32."""
    with no_future_warnings():
        return PeftModel.from_pretrained(base, str(folder), local_files_only=True).float().eval()
