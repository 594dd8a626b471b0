"""What cloneofsimo makes of modules that have numbers instead of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorax.dialects import DIALECTS
from lorax.identify import alias_table
from tests.lorax.dialects.files import randoms, read_tensors
from tests.lorax.dialects.small_bases import known, small_unet

BLOCKS = [
    f"{place}.transformer_blocks.0"
    for place in (
        "down_blocks.0.attentions.0", "down_blocks.1.attentions.0", "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "mid_block.attentions.0",
    )
]  # fmt: skip
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
WITH_GATES = [*(f"attn1.{part}" for part in ATTENTION), "ff.net.0.proj", *(f"attn2.{part}" for part in ATTENTION)]
WITHOUT = [part for part in WITH_GATES if part != "ff.net.0.proj"]


def order(parts: list[str]) -> list[str]:
    return [f"{block}.{part}" for block in BLOCKS for part in parts]


@pytest.mark.parametrize("parts", [WITH_GATES, WITHOUT], ids=["with GEGLU", "attention alone"])
@pytest.mark.parametrize("told", [True, False], ids=["by its header", "by count"])
def test_numbers_follow_the_order_of_the_network_of_2022(parts: list[str], told: bool, tmp_path: Path) -> None:  # noqa: FBT001
    base = small_unet()
    sites = {site.path: shape for site, shape in base.sites.items()}
    paths = order(parts)
    shapes = {}
    for number, path in enumerate(paths):
        shapes[f"unet:{number}:down"] = (1, sites[path].in_features)
        shapes[f"unet:{number}:up"] = (sites[path].out_features, 1)
    classes = ["CrossAttention", "Attention", *(["GEGLU"] if parts is WITH_GATES else [])]

    adapter = read_tensors(tmp_path, randoms(shapes), base, metadata={"unet": json.dumps(classes)} if told else {})

    tensors = randoms(shapes)
    assert adapter.dialect == "cloneofsimo"
    assert {site.path for site in adapter.updates} == set(paths)
    for site, update in adapter.low_rank().items():
        number = order(parts).index(site.path)
        assert update.up.equal(tensors[f"unet:{number}:up"])
        assert update.scale == 1.0


def test_a_text_encoders_layers_have_k_v_q_and_out() -> None:
    aliases = alias_table(known("sd1.5"), DIALECTS["cloneofsimo"])

    paths = [aliases[f"text_encoder:{number}"].path.rpartition(".")[2] for number in range(4)]

    assert paths == ["k_proj", "v_proj", "q_proj", "out_proj"]
    assert "layers.11." in aliases["text_encoder:47"].path
    assert "text_encoder:48" not in aliases


def test_the_base_of_its_time_has_144_numbers_with_gates_and_128_without() -> None:
    aliases = alias_table(known("sd1.5"), DIALECTS["cloneofsimo"])

    assert sum(name.startswith("unet:") for name in aliases) == 144
    assert sum(name.startswith("unet without") for name in aliases) == 128
    assert aliases["unet:143"].path == "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
