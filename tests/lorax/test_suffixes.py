from __future__ import annotations

import time

import pytest
import torch

from lorax.errors import Unsupported
from lorax.suffixes import KOHYA, LYCORIS, PEFT, endings_of, ends_with, joined, suffix_of


def test_of_several_suffixes_of_a_role_the_first_is_written() -> None:
    assert suffix_of(PEFT)["down"] == ".lora_A.weight"
    assert suffix_of(LYCORIS)["bias_diff"] == ".diff_b"


def test_tensors_are_named_by_spelling_and_suffix() -> None:
    named = joined("lora_unet_a", {"up": torch.ones(1), "alpha": torch.ones(())}, KOHYA)

    assert list(named) == ["lora_unet_a.lora_up.weight", "lora_unet_a.alpha"]


def test_a_role_without_a_suffix_cannot_be_written() -> None:
    with pytest.raises(Unsupported, match="hada_w1_a") as raised:
        joined("lora_unet_a", {"hada_w1_a": torch.ones(1)}, KOHYA)

    assert raised.value.reason == "unwritable"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.b.lora_A.weight", True),
        ("a.alpha", True),
        ("a.b.weight", False),
        ("alpha", False),
        ("", False),
        ("a.", False),
    ],
)
def test_an_ending_is_the_last_parts_of_a_name(name: str, found: bool) -> None:  # noqa: FBT001
    assert ends_with(name, endings_of(PEFT, KOHYA)) == found


def test_a_long_name_of_endings_is_quickly_seen_through() -> None:
    names = [f"unet{'.alpha' * 80}-{number}" for number in range(10_000)]
    start = time.process_time()

    assert not any(ends_with(name, endings_of(KOHYA)) for name in names)

    assert time.process_time() - start < 5
