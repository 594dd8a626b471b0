"""Tensors with the names and shapes that other tools write, and the rules of those tools worked out by hand.

Nothing of lorax is used here but the standard library's arithmetic on raw tensors, so that a mistake in lorax cannot
excuse itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
BARE_PEFT = (".lora_A", ".lora_B")


def noise(name: str, *shape: int) -> Tensor:
    """Returns random numbers that depend on the name alone: no two modules have the same factors."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def lora(
    module: str,
    out: int,
    inputs: int,
    rank: int = 2,
    *,
    alpha: float | None = None,
    ends: tuple[str, str] = KOHYA,
    kernel: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensors:
    """Returns the two factors of one module, and its alpha without dimensions where there is one."""
    down, up = (module + end for end in ends)
    found = {
        down: noise(down, rank, inputs, *kernel).to(dtype),
        up: noise(up, out, rank, *(1,) * len(kernel)).to(dtype),
    }
    if alpha is not None:
        found[f"{module}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return found


def kohya(module: str, out: int, inputs: int, rank: int = 2, alpha: float | None = 1.0) -> Tensors:
    """Returns one linear module as sd-scripts writes it."""
    return lora(module, out, inputs, rank, alpha=alpha)


def peft(module: str, out: int, inputs: int, rank: int = 2) -> Tensors:
    """Returns one linear module with lora_A and lora_B."""
    return lora(module, out, inputs, rank, ends=PEFT)


def factors(tensors: Tensors, module: str, ends: tuple[str, str] = KOHYA) -> tuple[Tensor, Tensor]:
    """Returns up as (out, rank) and down as (rank, columns)."""
    down, up = (tensors[module + end].float().flatten(1) for end in ends)
    return up, down


def by_hand(tensors: Tensors, module: str, vector: Tensor, *, scale: float, ends: tuple[str, str] = KOHYA) -> Tensor:
    """Returns scale * up @ (down @ vector) from the raw tensors."""
    up, down = factors(tensors, module, ends)
    return scale * (up @ (down @ vector))


def probe(length: int) -> Tensor:
    """Returns a vector without symmetry, to act upon."""
    return torch.sin(torch.arange(length, dtype=torch.float32) * 0.7 + 0.1)


# -- conditional U-Nets: (attention in sgm's names, in diffusers' names, width, depth) --------------------------------
Attention = tuple[str, str, int, int]


def _level(sgm: str, first: int, own: str, width: int, depths: Iterable[int]) -> Iterator[Attention]:
    for number, depth in enumerate(depths):
        yield f"{sgm}_{first + number}_1", f"{own}_attentions_{number}", width, depth


def sdxl_attentions() -> list[Attention]:
    """Returns SDXL's eleven attentions."""
    return [
        *_level("input_blocks", 4, "down_blocks_1", 640, (2, 2)),
        *_level("input_blocks", 7, "down_blocks_2", 1280, (10, 10)),
        ("middle_block_1", "mid_block_attentions_0", 1280, 10),
        *_level("output_blocks", 0, "up_blocks_0", 1280, (10, 10, 10)),
        *_level("output_blocks", 3, "up_blocks_1", 640, (2, 2, 2)),
    ]


def ssd_1b_attentions() -> list[Attention]:
    """Returns SSD-1B's ten attentions."""
    return [
        *_level("input_blocks", 4, "down_blocks_1", 640, (2, 2)),
        *_level("input_blocks", 7, "down_blocks_2", 1280, (4, 4)),
        *_level("output_blocks", 0, "up_blocks_0", 1280, (4, 4, 10)),
        *_level("output_blocks", 3, "up_blocks_1", 640, (2, 1, 1)),
    ]


def vega_attentions() -> list[Attention]:
    """Returns Segmind-Vega's ten attentions."""
    return [
        *_level("input_blocks", 4, "down_blocks_1", 640, (1, 1)),
        *_level("input_blocks", 7, "down_blocks_2", 1280, (2, 2)),
        *_level("output_blocks", 0, "up_blocks_0", 1280, (2, 2, 2)),
        *_level("output_blocks", 3, "up_blocks_1", 640, (1, 1, 1)),
    ]


def sd1_attentions(*, down: int = 2, up: int = 3, middle: bool = True, first_up: int = 1) -> list[Attention]:
    """Returns the attentions of SD1 and SD2, or of BK-SDM with fewer of them."""
    widths = (320, 640, 1280)
    found = [
        each for level, width in enumerate(widths) for each in _level("", 0, f"down_blocks_{level}", width, [1] * down)
    ]
    found += [("", "mid_block_attentions_0", 1280, 1)] if middle else []
    for level, width in enumerate(reversed(widths), first_up):
        found += _level("", 0, f"up_blocks_{level}", width, [1] * up)
    return found


def attention_layers(
    attentions: Iterable[Attention], context: int, *, sgm: bool, only: str = ""
) -> Iterator[tuple[str, int, int]]:
    """Gives (flat name, outputs, inputs) of every layer that sd-scripts trains, those whose name holds `only`."""
    for other, own, width, depth in attentions:
        start = other if sgm else own
        layers = [(f"{start}_proj_in", width, width), (f"{start}_proj_out", width, width)]
        for number in range(depth):
            block = f"{start}_transformer_blocks_{number}"
            for attention, inputs in (("attn1", width), ("attn2", context)):
                layers += [(f"{block}_{attention}_to_q", width, width), (f"{block}_{attention}_to_out_0", width, width)]
                layers += [(f"{block}_{attention}_to_{part}", width, inputs) for part in ("k", "v")]
            layers += [(f"{block}_ff_net_0_proj", 8 * width, width), (f"{block}_ff_net_2", width, 4 * width)]
        yield from (layer for layer in layers if only in layer[0])


def unet_file(
    attentions: Iterable[Attention],
    context: int,
    *,
    sgm: bool = False,
    only: str = "",
    conv_projection: bool = False,
    rank: int = 1,
) -> Tensors:
    """Returns an sd-scripts file for the attentions of a U-Net, in half precision."""
    found: Tensors = {}
    for name, out, inputs in attention_layers(attentions, context, sgm=sgm, only=only):
        kernel = (1, 1) if conv_projection and name.endswith(("proj_in", "proj_out")) else ()
        found |= lora(f"lora_unet_{name}", out, inputs, rank, alpha=1.0, kernel=kernel, dtype=torch.float16)
    return found


def clip_file(prefix: str, layers: int, width: int, *, rank: int = 1) -> Tensors:
    """Returns an sd-scripts file for a CLIP text encoder."""
    found: Tensors = {}
    for layer in range(layers):
        start = f"{prefix}text_model_encoder_layers_{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= lora(f"{start}_self_attn_{part}", width, width, rank, alpha=1.0, dtype=torch.float16)
        found |= lora(f"{start}_mlp_fc1", 4 * width, width, rank, alpha=1.0, dtype=torch.float16)
        found |= lora(f"{start}_mlp_fc2", width, 4 * width, rank, alpha=1.0, dtype=torch.float16)
    return found
