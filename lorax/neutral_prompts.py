"""Plain subjects for pictures, where the settings name none: wide apart, so that an adapter shows on each of them."""

from __future__ import annotations

NEUTRAL_PROMPTS: tuple[str, ...] = (
    "a portrait of a woman",
    "a man walking through a park",
    "a cat on a sofa",
    "a horse in a meadow",
    "a mountain landscape with a lake",
    "an old stone house",
    "a wooden chair",
    "a bowl of fruit on a table",
    "a living room with a window",
    "a city street in the rain",
    "clouds in the sky at sunset",
    "a sailing boat on the sea",
    "a bunch of flowers in a vase",
    "a red car on a road",
    "a group of people at a market",
    "a book and a cup of coffee",
)
"""People, animals, landscape, buildings, things, food, rooms, streets, sky, water, plants, vehicles; no style named."""
