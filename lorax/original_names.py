"""What a model is made of that is read under the names of other code: the numbers of a U-Net, the names of OpenCLIP.

Namings go from the sites of a base to other names. Here is what is needed to go back: a base whose sites are those of
the file, so that its namings can be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lorax.inventories.unet import UNet
from lorax.stored import Stored, rows_of, transposed

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by their names in the original code, without anything before `input_blocks`."""

_CLASS_CONTEXT = 1024
"""The width of text states of Stable Diffusion 2, whose `label_emb` is an embedding of classes (unCLIP)."""


def unet_of(shapes: Shapes) -> UNet:
    """Gives the conditional U-Net that CompVis' names describe. Raises KeyError or IndexError where they describe none.

    The names say how many layers and transformer blocks there are, the shapes how wide they are.
    """
    down, widths = _way_down(shapes)
    up = _way_up(shapes)
    keys = [shape for name, shape in sorted(shapes.items()) if name.endswith("attn2.to_k.weight")]
    projections = [shape for name, shape in sorted(shapes.items()) if name.endswith(".1.proj_in.weight")]
    context = keys[0][1] if keys else 1
    channels, inputs = shapes["out.2.weight"][0], shapes["input_blocks.0.0.weight"][1]
    label = shapes.get("label_emb.0.0.weight")
    of_classes = context == _CLASS_CONTEXT
    return UNet(
        channels=channels,
        extra_channels=inputs - channels,
        widths=widths,
        depths=down,
        up_depths=up,
        middle_depth=_depth(shapes, "middle_block.1") if "middle_block.0.in_layers.2.weight" in shapes else None,
        layers=tuple(len(level) for level in down),
        context=context,
        linear_projection=bool(projections) and len(projections[0]) == 2,
        added_width=label[1] if label and not of_classes else None,
        class_width=label[1] if label and of_classes else None,
        classes=shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0,
    )


def _way_down(shapes: Shapes) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Transformer blocks of each layer of each level, and the width of each level."""
    levels: list[list[int]] = [[]]
    widths: list[int] = []
    for block in _blocks(shapes, "input_blocks"):
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        elif (convolution := shapes.get(f"{block}.0.in_layers.2.weight")) is not None:
            if not levels[-1]:
                widths.append(convolution[0])
            levels[-1].append(_depth(shapes, f"{block}.1"))
    return tuple(map(tuple, levels)), tuple(widths)


def _way_up(shapes: Shapes) -> tuple[tuple[int, ...], ...]:
    levels: list[list[int]] = [[]]
    last = [f"{block}." for block in _blocks(shapes, "output_blocks")][-1]
    for block in _blocks(shapes, "output_blocks"):
        levels[-1].append(_depth(shapes, f"{block}.1"))
        grows = any(f"{block}.{place}.conv.weight" in shapes for place in (1, 2))
        if grows and f"{block}." != last:
            levels.append([])
    return tuple(map(tuple, levels))


def _blocks(shapes: Shapes, way: str) -> Iterator[str]:
    numbers = {int(name.split(".")[1]) for name in shapes if name.startswith(f"{way}.")}
    for number in sorted(numbers):
        yield f"{way}.{number}"


def _depth(shapes: Shapes, attention: str) -> int:
    """How many transformer blocks an attention has, 0 where there is none."""
    start = f"{attention}.transformer_blocks."
    return len({name.removeprefix(start).partition(".")[0] for name in shapes if name.startswith(start)})


_OPENCLIP = (
    (re.compile(r"transformer\.resblocks\.(\d+)\.ln_([12])\.(weight|bias)"), r"encoder.layers.\1.layer_norm\2.\3"),
    (re.compile(r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)"), r"encoder.layers.\1.mlp.fc1.\2"),
    (re.compile(r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)"), r"encoder.layers.\1.mlp.fc2.\2"),
    (
        re.compile(r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)"),
        r"encoder.layers.\1.self_attn.out_proj.\2",
    ),
    (re.compile(r"token_embedding\.weight"), r"embeddings.token_embedding.weight"),
    (re.compile(r"positional_embedding"), r"embeddings.position_embedding.weight"),
    (re.compile(r"ln_final\.(weight|bias)"), r"final_layer_norm.\1"),
)
"""OpenCLIP's names, and transformers' without their `text_model.` level."""
_FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.")
_UNUSED = frozenset({"logit_scale", "attn_mask"})


def openclip_parameters(stored: Mapping[str, Stored], *, projected: bool) -> Iterator[tuple[str, Stored]]:
    """Gives the parameters of an OpenCLIP text encoder under transformers' names; query, key and value apart.

    projected: the encoder of SDXL, with its last layer and its projection; that of Stable Diffusion 2 has neither.
    Names that are not OpenCLIP's are left out.
    """
    layers = [int(found[1]) for name in stored if (found := _LAYER.match(name))]
    last = None if projected or not layers else max(layers)
    for name, parameter in stored.items():
        layer = _LAYER.match(name)
        if name in _UNUSED or (layer and int(layer[1]) == last):
            continue
        if name in {"text_projection", "text_projection.weight"}:
            if projected:
                yield "text_projection.weight", _projection(name, parameter)
        elif fused := _FUSED.fullmatch(name):
            yield from _query_key_value(parameter, f"text_model.encoder.layers.{fused[1]}.self_attn", fused[2])
        else:
            yield from ((f"text_model.{each}", parameter) for each in _renamed(name))


def _projection(name: str, parameter: Stored) -> Stored:
    # The original is a bare matrix that states are multiplied by from the right; some programs save a linear layer.
    return transposed(parameter) if name == "text_projection" else parameter


def _query_key_value(parameter: Stored, attention: str, kind: str) -> Iterator[tuple[str, Stored]]:
    third = parameter.shape[0] // 3
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        yield f"{attention}.{part}.{kind}", rows_of(parameter, number * third, (number + 1) * third)


def _renamed(name: str) -> Iterator[str]:
    for pattern, canonical in _OPENCLIP:
        if found := pattern.fullmatch(name):
            yield found.expand(canonical)
