"""Every algorithm that a dialect has words for comes back as it was, and no other is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter, Site
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.dialects import DIALECTS
from lorax.errors import Refused
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.lorax.dialects.files import randoms
from tests.lorax.dialects.small_bases import small_flux, small_unet
from tests.stand_ins.adapter_files import random_adapter

QUERY = {
    "small-unet": Site("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
    "small-flux": Site("transformer", "transformer_blocks.0.attn.to_out.0"),
}


def tensors_of(algorithm: str, width: int) -> dict[str, Tensor]:
    """Returns what a module of this algorithm is made of, for a square weight."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "loha": {
            "hada_w1_a": (width, 2), "hada_w1_b": (2, width), "hada_w2_a": (width, 2), "hada_w2_b": (2, width),
        },
        "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (width // 4, 2), "lokr_w2_b": (2, width // 4)},
        "full": {"diff": (width, width)},
        "ia3": {"ia3": (width, 1)},
        "oft": {"oft_blocks": (width // 4, 4, 4)},
        "oft_packed": {"oft_r": (width // 4, 6)},
        "dora": {"down": (2, width), "up": (width, 2), "magnitude": (width, 1)},
    }  # fmt: skip
    more = {"ia3": {"on_input": torch.tensor(0.0)}}
    return {**randoms(shapes[algorithm]), **more.get(algorithm, {})}


def adapter_of(algorithm: str, base: BaseModel) -> Adapter:
    site = QUERY[base.name]
    shape = base.sites[site]
    decode = ALGORITHMS[algorithm].decode
    assert decode is not None
    update = decode(tensors_of(algorithm, shape.out_features), 0.5, shape)
    return replace(random_adapter(small_unet(), match="nothing"), updates={site: update})


SPOKEN = [
    (dialect.name, algorithm)
    for dialect in DIALECTS.values()
    for algorithm in sorted(dialect.says - {"lora", "lora_embedding"})
]


@pytest.mark.parametrize(("dialect", "algorithm"), SPOKEN)
@pytest.mark.parametrize("base", [small_unet(), small_flux()], ids=lambda base: base.name)
def test_what_a_dialect_has_words_for_comes_back(dialect: str, algorithm: str, base: BaseModel, tmp_path: Path) -> None:
    adapter = adapter_of(algorithm, base)

    paths = write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})
    again = read_adapter(AdapterFiles(paths[0], paths[1] if len(paths) > 1 else None), candidates=[base])

    assert again.dialect == dialect
    assert again.algorithms == (algorithm,)
    [(site, update)] = again.updates.items()
    weight = randoms({"weight": base.sites[site].weight_shape})["weight"]
    assert torch.allclose(update.dense(weight), adapter.updates[site].dense(weight), atol=1e-5)


UNSPOKEN = [("kohya", "dora"), ("kohya", "full"), ("xlabs", "full"), ("diffusers", "oft"), ("peft", "ia3")]


@pytest.mark.parametrize(("dialect", "algorithm"), UNSPOKEN)
def test_what_is_no_exact_lora_is_not_written_as_one(dialect: str, algorithm: str, tmp_path: Path) -> None:
    base = small_flux()
    adapter = adapter_of(algorithm, base)

    with pytest.raises(Refused) as raised:
        write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})

    assert raised.value.reason == "unwritable"


@pytest.mark.parametrize("dialect", ["kohya", "xlabs", "peft", "diffusers"])
@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
def test_what_is_an_exact_lora_is_written_as_one(dialect: str, algorithm: str, tmp_path: Path) -> None:
    base = small_flux()
    adapter = adapter_of(algorithm, base)

    paths = write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})
    again = read_adapter(AdapterFiles(paths[0], paths[1] if len(paths) > 1 else None), candidates=[base])

    assert again.algorithms == ("lora",)
    [(site, update)] = again.updates.items()
    assert torch.allclose(update.dense(), adapter.updates[site].dense(), atol=1e-4)


def test_a_length_per_input_is_not_written_for_peft(tmp_path: Path) -> None:
    base = small_unet()
    site = QUERY[base.name]
    tensors = tensors_of("dora", base.sites[site].out_features)
    decode = ALGORITHMS["dora"].decode
    assert decode is not None
    by_input = decode({**tensors, "magnitude": tensors["magnitude"].mT}, 0.5, base.sites[site])
    adapter = replace(adapter_of("dora", base), updates={site: by_input})

    for dialect in ("peft", "diffusers"):
        with pytest.raises(Refused, match="per input") as raised:
            write_adapter(adapter, tmp_path, dialect=dialect, base=base, stem="bold", metadata={})
        assert raised.value.reason == "unwritable"
