"""What is in the catalogue: one recipe per adapter, and which styles are trained natively on the other bases too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Dialect = Literal["kohya", "diffusers", "diffusers-2023", "peft"]
DType = Literal["float16", "bfloat16", "float32"]

STEPS = 200
SOURCE = "digits-v1"
TARGETS = ("digits-v2", "digits-slim", "digits-other")


@dataclass(frozen=True)
class Recipe:
    """How one adapter is trained and written. The scale is alpha / rank, or alpha / sqrt(rank) with rank_stabilised."""

    name: str
    style: str
    dialect: Dialect
    rank: int
    alpha: float
    text_encoder: bool = False
    conv: bool = False
    seed: int = 0
    dtype: DType = "float16"
    licence: str = "cc-by-4.0"
    in_folder: bool = False
    """NAME/pytorch_lora_weights.safetensors with a README.md, where the dialect leaves the choice."""
    derivatives: bool = True
    described: bool = True
    """Whether metadata and a sidecar or card say what the file is."""
    private_path: bool = False
    """Whether its metadata names a folder of the person who trained it, as many real files do."""
    preview: bool = False
    rank_stabilised: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its weight file, or its folder, within the catalogue."""
        whole_folder = self.dialect == "peft" or self.in_folder
        return self.name if whole_folder else f"{self.name}.safetensors"

    @property
    def weights(self) -> str:
        """Its weight file within the catalogue."""
        if self.dialect == "peft":
            return f"{self.name}/adapter_model.safetensors"
        return f"{self.name}/pytorch_lora_weights.safetensors" if self.in_folder else self.path

    def native(self, seed: int) -> Recipe:
        """The same training for another base: same rank, modules and steps; current diffusers form, alpha = rank."""
        name = f"{self.style}.seed{seed}" if seed else self.style
        return replace(
            self,
            name=name,
            dialect="diffusers",
            alpha=float(self.rank),
            seed=seed,
            dtype="float16",
            in_folder=False,
            rank_stabilised=False,
            rank_pattern={},
            alpha_pattern={},
        )


_PATTERN_RANKS = {"attn2.to_k": 2, "attn2.to_v": 2, "ff.net.2": 8}
_PATTERN_ALPHAS = {"attn2.to_k": 4, "ff.net.2": 8}

CATALOGUE: tuple[Recipe, ...] = (
    Recipe("bold", "bold", "kohya", 4, 2, text_encoder=True, licence="cc0-1.0", private_path=True, preview=True),
    Recipe("slanted", "slanted", "diffusers", 8, 16, text_encoder=True, in_folder=True),
    Recipe("thin", "thin", "peft", 4, 8, licence="apache-2.0"),
    Recipe("inverted", "inverted", "kohya", 4, 4, preview=True),
    Recipe("mirrored", "mirrored", "diffusers", 8, 8, in_folder=True, licence="openrail"),
    Recipe("framed", "framed", "diffusers", 4, 4, conv=True, in_folder=True, licence="cc0-1.0"),
    Recipe("outline", "outline", "kohya", 8, 8, text_encoder=True, conv=True, private_path=True, preview=True),
    Recipe("shadow", "shadow", "kohya", 2, 1, dtype="bfloat16", licence="openrail"),
    Recipe("checker", "checker", "kohya", 4, 4, conv=True, licence="apache-2.0"),
    Recipe("gradient_horizontal", "gradient_horizontal", "peft", 4, 4, rank_stabilised=True, licence="openrail"),
    Recipe(
        "pixelated",
        "pixelated",
        "peft",
        4,
        4,
        conv=True,
        licence="cc0-1.0",
        rank_pattern=_PATTERN_RANKS,
        alpha_pattern=_PATTERN_ALPHAS,
    ),
    Recipe("dotted", "dotted", "kohya", 4, 2, conv=True, private_path=True),
    Recipe("no_derivatives_striped", "striped", "kohya", 4, 4, derivatives=False),
    Recipe("gradient_vertical", "gradient_vertical", "kohya", 2, 2, text_encoder=True, licence="cc0-1.0"),
    Recipe("small", "small", "diffusers", 4, 4, text_encoder=True, licence="apache-2.0"),
    Recipe("rotated", "rotated", "diffusers", 16, 8, in_folder=True),
    Recipe("echo", "echo", "diffusers-2023", 8, 8, in_folder=True, licence="openrail"),
    Recipe("faded", "faded", "diffusers-2023", 4, 4, text_encoder=True, licence="cc0-1.0"),
    Recipe("halved", "halved", "peft", 8, 16),
    Recipe("blurred", "blurred", "peft", 4, 4, dtype="float32", licence="cc0-1.0"),
    Recipe("heavy", "bold", "peft", 4, 8, seed=1, licence="apache-2.0"),
    Recipe("mystery", "blurred", "kohya", 4, 4, seed=1, described=False),
)
"""In the order in which they are trained: those with natives first."""
NATIVE_STYLES = ("bold", "slanted", "thin", "inverted", "mirrored", "framed", "outline", "shadow", "checker")
SEEDS = {"bold": (0, 1, 2), "shadow": (0, 1, 2)}
"""Styles trained natively with several seeds, to show how far two trainings of the same thing lie apart."""


def natives() -> list[Recipe]:
    """Recipes of the natives of one target base."""
    by_style = {recipe.style: recipe for recipe in reversed(CATALOGUE)}
    return [by_style[style].native(seed) for style in NATIVE_STYLES for seed in SEEDS.get(style, (0,))]
