"""Writes weights as bitsandbytes and compressed-tensors quantise them, with what these libraries themselves read back.

Run by hand, where both libraries are installed (bitsandbytes 0.50.2 and compressed-tensors 0.20.0 made the files that
are here): `python tests/golden/quantised/make.py`. The names are those of a model of transformers: CASE.weight and its
companions are what is stored, `expected.CASE` is what it is worth.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent


def bitsandbytes_tensors() -> dict[str, torch.Tensor]:
    """Returns layers of bitsandbytes as their own state_dict spells them.

    Rows are whole blocks: others are dequantised wrongly by the CPU code of version 0.50.2 (three times the error).
    """
    import bitsandbytes as bnb

    found: dict[str, torch.Tensor] = {}
    cases = {
        "nf4": {"quant_type": "nf4", "compress_statistics": False},
        "nf4-nested": {"quant_type": "nf4", "compress_statistics": True},
        "fp4": {"quant_type": "fp4", "compress_statistics": False},
        "fp4-nested": {"quant_type": "fp4", "compress_statistics": True},
        "nf4-in-bfloat16": {"quant_type": "nf4", "compress_statistics": True, "quant_storage": torch.bfloat16},
    }
    for name, options in cases.items():
        torch.manual_seed(len(name))
        layer = bnb.nn.Linear4bit(128, 40, bias=False, **options)
        layer = layer.to("cpu")
        if layer.weight.quant_state is None:
            layer.weight = layer.weight._quantize("cpu")  # what moving to a GPU would do
        found |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        state = layer.weight.quant_state
        found[f"expected.{name}"] = bnb.functional.dequantize_4bit(layer.weight.data, state).float().reshape(40, 128)
    weight = torch.randn(24, 32)
    numbers, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
    found |= {"int8.weight": numbers, "int8.SCB": scales, "int8.weight_format": torch.tensor(0, dtype=torch.uint8)}
    found["expected.int8"] = bnb.functional.int8_vectorwise_dequant(numbers, scales)
    return found


def compressed_tensors() -> dict[str, torch.Tensor]:
    """Returns weights as compressed-tensors' own compressors store them."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    cases = {
        "packed-groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}),
        "packed-groups-asymmetric": (
            "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
        ),
        "packed-channels": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
        "int8-channels": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        "int8-asymmetric": ("int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
        "float8-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    }  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    for name, (kind, options) in cases.items():
        torch.manual_seed(len(name))
        arguments = QuantizationArgs(**options)
        scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
        weight = torch.randn(24, 64)
        groups = {"group": weight.reshape(24, 4, 16), "channel": weight[:, None], "tensor": weight.reshape(1, 1, -1)}
        values = groups[str(arguments.strategy)]
        scale, zero = calculate_qparams(values.amin(-1), values.amax(-1), arguments)
        if str(arguments.strategy) == "tensor":
            scale, zero = scale.reshape(1), zero.reshape(1)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        compressor = BaseCompressor.get_value_from_registry(kind)
        stored = compressor.compress(state, scheme)
        found |= {f"{name}.{key}": value.contiguous() for key, value in stored.items()}
        found[f"expected.{name}"] = compressor.decompress(stored, scheme)["weight"].float()
    return found


if __name__ == "__main__":
    for stem, tensors in (("bitsandbytes", bitsandbytes_tensors()), ("compressed_tensors", compressed_tensors())):
        kept = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(kept, HERE / f"{stem}.safetensors")
