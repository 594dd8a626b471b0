"""Peak memory of compiling to disk, for Llama-shaped checkpoints of growing depth that differ in nothing else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lorax.checkpoint import open_checkpoint  # noqa: E402 - after the path
from lorax.compile import compilation, compile_to  # noqa: E402

HIDDEN, INNER, VOCAB = 768, 2048, 2048


def peak_bytes() -> int:
    """Returns the most memory that this process has had resident."""
    # On Linux getrusage also counts what the parent had when it started this process.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_checkpoint(folder: Path, layers: int) -> None:
    """Writes a model in half precision, one shard per layer, as transformers does."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names: dict[str, str] = {}
    outer = {"model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN), "model.norm.weight": torch.ones(HIDDEN)}
    for number in range(layers + 1):
        tensors = _layer(number - 1) if number else outer
        shard = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / shard)
        names |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _layer(index: int) -> dict[str, torch.Tensor]:
    attention = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    inner = {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    weights = {f"{name}.weight": torch.randn(*shape) for name, shape in {**attention, **inner}.items()}
    norms = {f"{name}.weight": torch.ones(HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")}
    return {f"model.layers.{index}.{name}": tensor for name, tensor in {**weights, **norms}.items()}


def compile_folders(source: Path, target: Path, *, method: str, out: Path) -> dict[str, int]:
    """Compiles a plan for two base folders in this process, and returns in bytes what it took."""
    bases = [open_checkpoint(folder, name=folder.resolve().name) for folder in (source, target)]
    opened = peak_bytes()
    plan = compile_to(out, compilation(bases[0], bases[1], method=method, settings={}))
    shapes = bases[1].base.sites.values()
    return {
        "checkpoint": sum(path.stat().st_size for path in target.rglob("*.safetensors")),
        "plan": plan.stat().st_size,
        "largest weight": 4 * max(shape.out_features * shape.columns for shape in shapes),
        "opened": opened,
        "peak": peak_bytes(),
    }


def measure_depths(depths: list[int], *, method: str) -> list[dict[str, int]]:
    """Returns what `compile_folders` tells for a generated model of each depth, every one in a process of its own."""
    found = []
    for depth in depths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder / "base", depth)
            command = [sys.executable, __file__, str(folder / "base"), method, str(folder / "plan.safetensors")]
            run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603
            found.append({"layers": depth, **json.loads(run.stdout)})
    return found


if __name__ == "__main__":
    BASE, METHOD, OUT = sys.argv[1:]
    print(json.dumps(compile_folders(Path(BASE), Path(BASE), method=METHOD, out=Path(OUT))))
