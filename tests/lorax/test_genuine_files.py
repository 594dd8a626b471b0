"""Files that nobody here made are read whole: every tensor accounted for, exact counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.base_models import known_bases
from lorax.errors import Refused
from lorax.inspection import inspect_adapter
from lorax.lowering import lower_adapter
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file
from tests.stand_ins.adapter_files import small_base

HERE = Path(__file__).parents[1] / "genuine"
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "catalogue"


@dataclass(frozen=True)
class Genuine:
    path: Path
    dialect: str
    algorithms: tuple[str, ...]
    sites: dict[str, int]
    ranks: tuple[int, ...]
    mapped: int
    unmappable: int = 0


FILES = {
    "cloneofsimo": Genuine(
        HERE / "disney_cloneofsimo.safetensors",
        "cloneofsimo",
        ("lora",),
        {"unet": 144, "text_encoder": 48},
        (1,),
        384,
        2,
    ),
    "attention processors": Genuine(
        HERE / "attention_processor_2023.safetensors", "diffusers_old", ("lora",), {"unet": 128}, (4,), 256
    ),
    "diffusers": Genuine(EXAMPLE / "pokemon_sd15.safetensors", "diffusers", ("lora",), {"unet": 128}, (4,), 256),
    "LyCORIS": Genuine(
        HERE / "smart_falcon_lokr.safetensors", "lycoris", ("lokr",), {"unet": 278, "text_encoder": 72}, (16,), 1750
    ),
}
every_file = pytest.mark.parametrize("about", FILES)


def read(genuine: Genuine) -> Adapter:
    return read_adapter(AdapterFiles(genuine.path), candidates=known_bases(), labels=("SD 1.5",))


@every_file
def test_every_tensor_of_a_genuine_file_is_accounted_for(about: str) -> None:
    genuine = FILES[about]

    found = inspect_adapter(AdapterFiles(genuine.path), candidates=known_bases(), labels=("SD 1.5",))

    assert found.problem is None
    assert (found.dialect, tuple(found.algorithms)) == (genuine.dialect, genuine.algorithms)
    assert (found.family, found.version) == ("stable-diffusion", "sd1.5")
    assert (found.tensors_mapped, found.tensors_unmappable, found.tensors_unknown) == (
        genuine.mapped, genuine.unmappable, 0,
    )  # fmt: skip
    assert found.tensors_mapped + found.tensors_unmappable == len(open_weight_file(genuine.path).tensors)
    assert found.sites == sum(genuine.sites.values())


@every_file
def test_a_genuine_file_becomes_updates_at_the_sites_it_patches(about: str) -> None:
    genuine = FILES[about]

    adapter = read(genuine)

    for component, count in genuine.sites.items():
        assert sum(site.component == component for site in adapter.updates) == count
    assert adapter.ranks() == genuine.ranks
    assert adapter.base.name == "sd1.5"
    assert all(scale == 1.0 for scale in adapter.scales().values())


def test_the_hash_of_the_weights_is_the_one_that_sd_scripts_stored() -> None:
    file = open_weight_file(FILES["LyCORIS"].path)

    assert file.weights_sha256() == file.metadata["sshs_model_hash"]


def test_the_first_module_of_a_list_without_names_is_where_the_shapes_say() -> None:
    adapter = read(FILES["cloneofsimo"])
    file = open_weight_file(FILES["cloneofsimo"].path)

    first = adapter.low_rank()[Site("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")]
    last = adapter.low_rank()[Site("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0")]

    assert torch.equal(first.down, file.read("unet:0:down").float())
    assert torch.equal(last.up, file.read("unet:143:up").float())


def test_factors_of_a_genuine_lokr_file_are_exact(subtests: pytest.Subtests) -> None:
    adapter = read(FILES["LyCORIS"])
    sites = [site for index, site in enumerate(sorted(adapter.updates)) if index % 25 == 0]

    lowered = lower_adapter(adapter, None, exact_rank=1280)

    assert len(sites) == 14
    assert not lowered.lost
    for site in sites:
        with subtests.test(str(site)):
            dense = adapter.updates[site].dense()
            torch.testing.assert_close(lowered.adapter.low_rank()[site].dense(), dense, rtol=1e-4, atol=1e-7)


def test_the_record_of_a_genuine_file_is_plain_json() -> None:
    found = inspect_adapter(AdapterFiles(FILES["LyCORIS"].path), candidates=known_bases())

    record = json.loads(json.dumps(found.to_json()))

    assert record["weights_sha256"] == open_weight_file(FILES["LyCORIS"].path).metadata["sshs_model_hash"]
    assert record["sites"] == 350


def test_a_genuine_file_for_another_base_is_refused() -> None:
    genuine = FILES["diffusers"]

    with pytest.raises(Refused, match="small-v1") as raised:
        read_adapter(AdapterFiles(genuine.path), candidates=[small_base()])

    assert raised.value.reason == "base-unknown"
