"""Opening an encoder's folder: weights as safetensors only, everything local, and what lacks is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lorax.errors import Stop

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_AT_ONCE = 16
"""Pictures that an encoder sees at once."""
_NOT_ONE = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError)
"""What loaders raise for a folder that is none of theirs."""


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A folder that is said to hold an encoder.

    kind: of the encoder; expected: what such a folder holds; convert: how its weights become safetensors.
    """

    path: Path
    kind: str
    expected: str
    convert: str = ""

    def require_weights(self) -> None:
        """Raises Stop where there is no folder, or no weights in it but pickles."""
        if not self.path.is_dir():
            raise self.refusal("there is no such folder")
        if any(self.path.glob("*.safetensors")):
            return
        for file in sorted(self.path.iterdir()):
            if file.suffix in _PICKLES:
                raise self.refusal(
                    f"{file.name} is a pickle, which can run code when it is opened, so it is never opened here. "
                    f"Convert it once, where you trust it: {self.convert}"
                )
        raise self.refusal("it holds no weights (*.safetensors)")

    def refusal(self, reason: str) -> Stop:
        """Returns the error that says why this folder is none of its kind, to be raised."""
        return Stop(f"{self.path}: no {self.kind} encoder: {reason}. Expected is {self.expected}; see docs/encoders.md")

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """Returns what a JSON file of the folder says; empty where there is none. Raises Stop where it is broken."""
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            said = json.loads(file.read_bytes())
        except (OSError, ValueError) as problem:
            raise self.refusal(f"{name} cannot be read ({problem})") from problem
        if not isinstance(said, dict):
            raise self.refusal(f"{name} is no JSON object")
        return said

    def require_type(self, known: Collection[str]) -> str:
        """Returns the model type that the folder's configuration names. Raises Stop where it is not a known one."""
        found = str(self.config().get("model_type", ""))
        if found not in known:
            raise self.refusal(f"config.json says model_type {found!r}, and {' or '.join(sorted(known))} is wanted")
        return found

    def model(self, loader: Any, device: str) -> Any:  # noqa: ANN401 - a class of transformers, and what it opens
        """Returns a model of transformers, float32. Raises Stop where it does not open or weights are missing."""
        from transformers.utils import logging

        logging.disable_progress_bar()  # one bar per load would tear up the run's own
        try:
            model, said = loader.from_pretrained(
                self.path,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except _NOT_ONE as problem:
            raise self.refusal(f"it does not open ({problem})") from problem
        if missing := sorted(said["missing_keys"]):
            raise self.refusal(f"{len(missing)} of its weights are missing, {missing[0]} for one")
        return at_rest(model, device)

    def tokenizer(self, loader: Any) -> Any:  # noqa: ANN401 - a class of transformers, and what it opens
        """Returns a tokenizer. Raises Stop where it does not open."""
        try:
            return loader.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        except _NOT_ONE as problem:
            raise self.refusal(f"its tokenizer does not open ({problem})") from problem

    def holds(self, name: str) -> bool:
        """Tells whether there is a tensor of this name, without reading it. Raises Stop where a file is broken."""
        for file in sorted(self.path.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as opened:
                    if name in opened.keys():  # noqa: SIM118 - no mapping
                        return True
            except (OSError, SafetensorError) as problem:
                raise self.refusal(f"{file.name} cannot be read ({problem})") from problem
        return False

    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor of the folder by its own name, float32. Raises Stop where a file is broken."""
        found: dict[str, Tensor] = {}
        for file in sorted(self.path.glob("*.safetensors")):
            try:
                found |= load_file(file)
            except (OSError, SafetensorError) as problem:
                raise self.refusal(f"{file.name} cannot be read ({problem})") from problem
        return {name: tensor.float() for name, tensor in found.items()}

    def filled(self, module: nn.Module, tensors: dict[str, Tensor], *, part: str) -> None:
        """Puts tensors into a module, by name. Raises Stop where names or shapes are not those of the module."""
        try:
            module.load_state_dict(tensors)
        except RuntimeError as problem:
            raise self.refusal(f"its {part} has other names or shapes ({problem})") from problem


def at_rest(model: Any, device: str) -> Any:  # noqa: ANN401 - a module of transformers
    """Returns a model on a device that is run and never trained."""
    return model.eval().requires_grad_(requires_grad=False).to(device)


@torch.no_grad()
def in_parts(pixels: Tensor, see: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Returns what `see(pixels, rows)` gives for a few pictures at a time, on the CPU, float32."""
    rows = [slice(start, start + _AT_ONCE) for start in range(0, len(pixels), _AT_ONCE)]
    return torch.cat([see(pixels[part], part).float().cpu() for part in rows])
