"""Makes sound weight files that are no sound adapters, each wrong in one way, with the reason of its refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import save
from torch import Tensor

from tests.stand_ins.adapter_files import SMALL_UNET, kohya_tensors, random_adapter, small_base

Tensors = dict[str, Tensor]
BASE = small_base()
WIDER = small_base("wider", unet=replace(SMALL_UNET, widths=(12, 24)))
FLAT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "lora_unet_mid_block_resnets_0_conv1"
UP, DOWN, ALPHA = f"{FLAT}.lora_up.weight", f"{FLAT}.lora_down.weight", f"{FLAT}.alpha"


@dataclass(frozen=True)
class Spoilt:
    """One adapter file: what is wrong, its tensors, the reason code, metadata, the JSON beside it (None: no file)."""

    about: str
    tensors: Callable[[], Tensors]
    reason: str
    metadata: dict[str, str] = field(default_factory=dict)
    config: bytes | None = None

    @property
    def content(self) -> bytes:
        """The bytes, as the official writer lays them out."""
        return save(self.tensors(), self.metadata or None)


def sound(match: str = "mid_block") -> Tensors:
    """Returns a sound adapter of the small base, in kohya's spelling."""
    return kohya_tensors(random_adapter(BASE, match=match))


def but(
    changes: Tensors | None = None, *, without: tuple[str, ...] = (), match: str = "mid_block"
) -> Callable[[], Tensors]:
    """Returns a maker of the sound adapter with some tensors changed or left out; match="": of the whole base."""

    def make() -> Tensors:
        tensors = sound(match) | (changes or {})
        return {name: tensor for name, tensor in tensors.items() if name not in without}

    return make


def holding(value: float, *names: str, place: int = -1) -> Callable[[], Tensors]:
    """Returns a maker of the sound adapter with one number of some tensors replaced."""

    def make() -> Tensors:
        tensors = sound()
        for name in names or (max(tensors),):
            tensors[name].reshape(-1)[place] = value
        return tensors

    return make


def named(*names: str, shape: tuple[int, ...] = (2, 2)) -> Callable[[], Tensors]:
    """Returns a maker of a file with these names."""
    return lambda: {name: torch.ones(shape) for name in names}


def renamed(change: Callable[[str], str]) -> Callable[[], Tensors]:
    """Returns a maker of the sound adapter with all its names changed."""
    return lambda: {change(name): tensor for name, tensor in sound().items()}


def bytes_of(shape: tuple[int, ...]) -> Tensor:
    """Returns ones that take one byte each, so that a large tensor is a small file."""
    return torch.ones(shape, dtype=torch.float8_e4m3fn)


def numbers() -> list[Spoilt]:
    """Returns files whose numbers cannot be meant."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in sound().items() if not name.endswith(".alpha")}
    ups = {name: tensor for name, tensor in zeros.items() if "lora_up" in name}
    extra = "lora_te_text_projection"
    left_out = {f"{extra}.lora_down.weight": torch.full((2, 2), torch.nan), f"{extra}.lora_up.weight": torch.ones(2, 2)}
    return [
        Spoilt("NaN at the end of the last tensor", holding(torch.nan), "non-finite"),
        Spoilt("NaN at the start of a factor", holding(torch.nan, UP, place=0), "non-finite"),
        Spoilt("infinity in a factor", holding(torch.inf, DOWN), "non-finite"),
        Spoilt("minus infinity in a factor", holding(-torch.inf, UP), "non-finite"),
        Spoilt("nothing but NaN", lambda: {n: torch.full_like(t, torch.nan) for n, t in sound().items()}, "non-finite"),
        Spoilt("an alpha of NaN", holding(torch.nan, ALPHA), "non-finite"),
        Spoilt("an alpha of infinity", holding(torch.inf, ALPHA), "non-finite"),
        Spoilt("a number beyond float32", but({DOWN: torch.full((2, 16), 1e300, dtype=torch.float64)}), "non-finite"),
        Spoilt("NaN in eight bits", but({DOWN: torch.full((2, 16), torch.nan).to(torch.float8_e5m2)}), "non-finite"),
        Spoilt("NaN in a part that has no effect", but(left_out), "non-finite"),
        Spoilt("nothing but zeros", but(zeros), "all-zero"),
        Spoilt("zeros on one side", but(ups), "all-zero"),
        Spoilt("factors of whole numbers", but({UP: torch.ones(16, 2, dtype=torch.int32)}), "bad-dtype"),
        Spoilt("factors of bytes", but({DOWN: torch.ones(2, 16, dtype=torch.uint8)}), "bad-dtype"),
        Spoilt("factors of truth", but({DOWN: torch.ones(2, 16, dtype=torch.bool)}), "bad-dtype"),
    ]


def shapes() -> list[Spoilt]:
    """Returns files whose tensors do not fit each other, or no weight."""
    kernel = f"{CONVOLUTION}.lora_down.weight"
    return [
        Spoilt("no up factor", but(without=(UP,)), "incomplete-pair"),
        Spoilt("no down factor", but(without=(DOWN,)), "incomplete-pair"),
        Spoilt("an alpha alone", but(without=(UP, DOWN)), "incomplete-pair"),
        Spoilt("up factors alone", lambda: {n: t for n, t in sound().items() if "lora_up" in n}, "incomplete-pair"),
        Spoilt("a flat up factor", but({UP: torch.ones(16)}), "bad-shape"),
        Spoilt("a flat down factor", but({DOWN: torch.ones(16)}), "bad-shape"),
        Spoilt("a number for a factor", but({UP: torch.tensor(1.0)}), "bad-shape"),
        Spoilt("a factor of three dimensions", but({DOWN: torch.ones(2, 4, 4)}), "bad-shape"),
        Spoilt("an up factor with a kernel", but({UP: torch.ones(16, 2, 3, 3)}), "bad-shape"),
        Spoilt("factors of two ranks", but({UP: torch.ones(16, 7)}), "bad-shape"),
        Spoilt(
            "factors the other way round", lambda: sound() | {UP: sound()[DOWN], DOWN: sound()[UP]}, "rank-too-large"
        ),
        Spoilt("a kernel of another size", but({kernel: torch.ones(2, 16, 5, 5)}, match=""), "bad-shape"),
        Spoilt("a rank of a million", but({UP: bytes_of((4, 10**6)), DOWN: bytes_of((10**6, 4))}), "rank-too-large"),
        Spoilt("a rank of 9 widths", but({UP: torch.ones(16, 144), DOWN: torch.ones(144, 16)}), "rank-too-large"),
        Spoilt("an alpha of two numbers", but({ALPHA: torch.ones(2)}), "bad-shape"),
        Spoilt("an alpha that is a matrix", but({ALPHA: torch.ones(2, 2)}), "bad-shape"),
        Spoilt(
            "one module of another width", but({DOWN: torch.ones(2, 17), UP: torch.ones(16, 2)}, match=""), "bad-shape"
        ),
        Spoilt(
            "one module of another height", but({DOWN: torch.ones(2, 16), UP: torch.ones(99, 2)}, match=""), "bad-shape"
        ),
        Spoilt("a core of another rank", but({f"{CONVOLUTION}.lora_mid.weight": torch.ones(3, 5, 3, 3)}), "bad-shape"),
        Spoilt("LoHa with half of its factors", named(f"{FLAT}.hada_w1_a", f"{FLAT}.hada_w1_b"), "incomplete-pair"),
        Spoilt(
            "LoHa of two shapes",
            lambda: {
                f"{FLAT}.hada_w1_a": torch.ones(16, 2),
                f"{FLAT}.hada_w1_b": torch.ones(2, 16),
                f"{FLAT}.hada_w2_a": torch.ones(15, 2),
                f"{FLAT}.hada_w2_b": torch.ones(2, 16),
            },
            "bad-shape",
        ),
        Spoilt("LoKr with one factor", named(f"{FLAT}.lokr_w1"), "incomplete-pair"),
        Spoilt("LoKr of no weight here", named(f"{FLAT}.lokr_w1", f"{FLAT}.lokr_w2", shape=(3, 3)), "base-unknown"),
        Spoilt("a magnitude of another length", but({f"{FLAT}.dora_scale": torch.ones(15, 1)}), "bad-shape"),
        Spoilt("a bias of another length", but({f"{FLAT}.diff_b": torch.ones(15)}), "unknown-tensor"),
    ]


def names() -> list[Spoilt]:
    """Returns files whose names say that they are something else, or nothing at all."""
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
    diffusers = {f"unet.{DOTTED}.lora_{side}.weight": torch.ones(16, 16) for side in "AB"}
    twice = {
        f"lora_te{prefix}_text_model_encoder_layers_0_mlp_fc1.lora_{side}.weight": torch.ones(shape)
        for prefix in ("", "1")
        for side, shape in (("down", (2, 12)), ("up", (48, 2)))
    }
    nowhere = {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(2, 2) for side in ("up", "down")}
    return [
        Spoilt("no tensors", dict, "missing-weights"),
        Spoilt("metadata and no tensors", dict, "missing-weights", {"ss_network_dim": "4"}),
        Spoilt("every prefix twice", renamed(lambda n: n.replace("lora_unet_", "lora_unet_unet_")), "base-unknown"),
        Spoilt(
            "one prefix twice",
            but({n.replace("unet", "unet_unet", 1): torch.ones(2, 2) for n in (UP, DOWN)}, match=""),
            "unknown-tensor",
        ),
        Spoilt("one module that is nowhere", but(nowhere, match=""), "unknown-tensor"),
        Spoilt("one tensor of no module", but({"noise": torch.ones(2)}), "unknown-tensor"),
        Spoilt("one role that nobody knows", but({f"{FLAT}.lora_sideways.weight": torch.ones(2)}), "unknown-tensor"),
        Spoilt("two dialects in one file", but(diffusers), "unknown-tensor"),
        Spoilt("one module in two spellings", but(twice), "duplicate-tensor"),
        Spoilt("names of no dialect", named("layer1.kernel", "layer1.offset", "layer2.kernel"), "unknown-dialect"),
        Spoilt("numbers for names", named("0", "1", "2"), "unknown-dialect"),
        Spoilt(
            "a full checkpoint",
            named(f"{block}.to_q.weight", f"{block}.to_k.weight", "first_stage_model.x.weight"),
            "unsupported-algorithm",
        ),
        Spoilt(
            "a diffusers model", named(f"{DOTTED}.weight", "conv_in.weight", "conv_in.bias"), "unsupported-algorithm"
        ),
        Spoilt("a VAE", named("encoder.conv_in.weight", "decoder.conv_out.bias"), "unsupported-algorithm"),
        Spoilt("a textual inversion", named("emb_params", shape=(4, 768)), "unsupported-algorithm"),
        Spoilt("a textual inversion of SDXL", named("clip_l", "clip_g", shape=(4, 768)), "unsupported-algorithm"),
        Spoilt("a textual inversion of diffusers", named("<cat-toy>", shape=(1, 768)), "unsupported-algorithm"),
        Spoilt(
            "a hypernetwork",
            named("768.0.linear.0.weight", "768.0.linear.0.bias", "768.1.linear.0.weight"),
            "unsupported-algorithm",
        ),
        Spoilt(
            "a ControlNet",
            named("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.bias"),
            "unsupported-algorithm",
        ),
        Spoilt("an IP-Adapter", named("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "unknown-dialect"),
        Spoilt("an upscaler", named("body.0.rdb1.conv1.weight", "conv_first.weight"), "unsupported-algorithm"),
        Spoilt(
            "VeRA",
            named(f"base_model.model.{DOTTED}.vera_lambda_b", f"base_model.model.{DOTTED}.vera_lambda_d", shape=(4,)),
            "unsupported-algorithm",
        ),
        Spoilt(
            "an adapter of another model", renamed(lambda n: n.replace("mid_block", "no_such_block")), "base-unknown"
        ),
        Spoilt("another model's widths", lambda: kohya_tensors(random_adapter(WIDER)), "base-unknown"),
    ]


def crowds() -> list[Spoilt]:
    """Returns files of 300 tensors whose long names give every pattern much to try."""
    words = {
        "kohya's words": ("lora_unet_down_blocks_0_", ".lora_down.weight", "incomplete-pair"),
        "blocks in blocks": ("transformer_blocks.0.", ".lora_A.weight", "incomplete-pair"),
        "prefixes of peft": ("base_model.model.", ".lora_B.default.weight", "incomplete-pair"),
        "words of a text encoder": ("lora_te_text_model_", ".alpha", "incomplete-pair"),
        "halves of roles": ("lora_A.lora_", "!", "unknown-dialect"),
        "adapters in adapters": ("adapter.down_", "", "unsupported-algorithm"),
        "dots": (".", "", "unknown-dialect"),
        "digits": ("0.", "", "unknown-dialect"),
    }

    def crowd(word: str, end: str) -> Callable[[], Tensors]:
        return lambda: {f"{(word * 500)[:400]}{index}{end}": torch.ones(1) for index in range(300)}

    return [
        Spoilt(f"300 long names of {about}", crowd(word, end), reason) for about, (word, end, reason) in words.items()
    ]


def _peft() -> Tensors:
    paths = {"A": (4, 16), "B": (16, 4)}
    return {f"base_model.model.{DOTTED}.lora_{side}.weight": torch.ones(shape) for side, shape in paths.items()}


def _diffusers() -> Tensors:
    return {name.replace("base_model.model.", "unet."): tensor for name, tensor in _peft().items()}


def _pattern(pattern: str) -> bytes:
    return json.dumps({"r": 4, "lora_alpha": 4, "alpha_pattern": {pattern: 1}}).encode()


def configurations() -> list[Spoilt]:
    """Returns adapters whose configuration, beside the weights or in the header, is broken."""
    header = "lora_adapter_metadata"
    beside: dict[str, bytes | None] = {
        "no configuration": None,
        "a configuration that is empty": b"",
        "a configuration that is no JSON": b"r: 4",
        "a configuration that is a list": b"[]",
        "a configuration cut short": b'{"r": 4, "lora_alpha"',
        "a configuration of 2 MB": b'{"r": 4, "x": "' + b"x" * 2 * 10**6 + b'"}',
        "a configuration of lists in lists": b'{"r":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "an alpha of NaN in the configuration": b'{"r": 4, "lora_alpha": NaN}',
        "an alpha of 1e400 in the configuration": b'{"r": 4, "lora_alpha": 1e400}',
        "an alpha of 400 digits": b'{"r": 4, "lora_alpha": ' + b"9" * 400 + b"}",
        "an alpha that is a text": b'{"r": 4, "lora_alpha": "8"}',
        "an alpha that is true": b'{"r": 4, "lora_alpha": true}',
        "patterns that are a list": b'{"r": 4, "lora_alpha": 4, "alpha_pattern": [1]}',
        "an alpha that is half a surrogate pair": b'{"r": 4, "lora_alpha": "\\ud800"}',
        "a pattern that is a terminal's escape": _pattern("\x1b[2J(("),
        "a pattern of half a surrogate pair": _pattern("\ud800(("),
        "a pattern that is no expression": _pattern("(to_q"),
        "a pattern that never ends": _pattern("(a+)+$"),
        "a pattern with many repeats": _pattern(".*a.*b.*c.*d.*e"),
        "a pattern of a thousand letters": _pattern("a|" * 500),
    }
    return [
        *(Spoilt(about, _peft, "bad-config", config=config) for about, config in beside.items()),
        Spoilt("a header configuration that is no JSON", _diffusers, "bad-config", {header: "{"}),
        Spoilt("a header configuration that is a number", _diffusers, "bad-config", {header: "4"}),
        Spoilt("a header configuration of lists", _diffusers, "bad-config", {header: "[" * 50_000}),
        Spoilt("a header alpha that is a text", _diffusers, "bad-config", {header: '{"unet.lora_alpha": "x"}'}),
    ]


def every_spoilt_adapter() -> list[Spoilt]:
    """Returns all of them."""
    return [*numbers(), *shapes(), *names(), *crowds(), *configurations()]
