"""What every dialect keeps: it knows its own files and no other's, and loses nothing on the way out and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, LowRank, Site
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.bundled import TOKEN
from lorax.dialect import Dialect, Evidence
from lorax.dialects import DIALECTS
from lorax.errors import Refused, Stop
from lorax.examine import SAVED, VECTOR_ROLES, AdapterFiles
from lorax.identify import alias_table
from lorax.read import read_adapter
from lorax.weight_file import open_weight_file, write_weight_file
from lorax.write import write_adapter
from tests.lorax.dialects.small_bases import known, small_flux, small_llama, small_unet, small_wan
from tests.stand_ins.adapter_files import ENDS, small_base

GOLDEN = Path(__file__).parents[1] / "golden" / "dialects"
PRECISIONS = [torch.float16, torch.bfloat16, torch.float32]
READ_ONLY = {"bfl_control", "cloneofsimo", "svdiff"}
# The bases that a tool trains adapters for, one of each kind.
HOMES: Mapping[str, Sequence[Callable[[], BaseModel]]] = {
    "ai_toolkit": (small_unet, small_flux, small_wan),
    "comfyui": (small_unet, small_flux, small_wan),
    "diffusers": (small_unet, small_flux, small_wan),
    "diffusers_old": (small_unet,),
    "kohya": (small_unet, small_flux),
    "lycoris": (small_unet, small_flux, small_llama),
    "musubi": (small_wan,),
    "onetrainer": (small_unet, small_flux),
    "peft": (small_unet, small_flux, small_wan, small_llama),
    "xlabs": (small_flux,),
}
# Without a word for alpha the scale lies in the factors, so that a file keeps products and not factors.
FOLDING = {"diffusers_old", "xlabs", "ai_toolkit"}


@dataclass(frozen=True)
class Case:
    """A dialect with one of the bases it is written for."""

    dialect: Dialect
    base: BaseModel

    def adapter(
        self, *, scales: Sequence[float] = (0.5, 1.0, 0.3), dtype: torch.dtype = torch.float32, match: str = ""
    ) -> Adapter:
        """Returns an adapter on every site that the dialect has a word for."""
        spoken = {part.site for _, module in self.dialect.modules(self.base) for part in module.parts}
        return random_updates(self.base, sorted(spoken), scales=scales, dtype=dtype, match=match)


def random_updates(
    base: BaseModel, sites: Sequence[Site], *, scales: Sequence[float], dtype: torch.dtype, match: str
) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    updates: dict[Site, LowRank] = {}
    for site in sites:
        shape = base.sites.get(site)
        if shape is None or site.path.startswith(ENDS) or match not in str(site):
            continue
        rank = 2 + len(updates) % 2 * 2
        up = torch.randn(shape.out_features, rank, generator=generator).to(dtype).float()
        down = torch.randn(rank, shape.columns, generator=generator).to(dtype).float()
        updates[site] = LowRank(up, down, scales[len(updates) % len(scales)], shape.kernel)
    verdict = replace(EMPTY.base, name=base.name, family=base.family)
    return replace(EMPTY, updates=updates, base=verdict, dtype=dtype)


def _empty() -> Adapter:
    from tests.stand_ins.adapter_files import random_adapter

    return replace(random_adapter(small_unet(), match="nothing"), updates={})


EMPTY = _empty()
CASES = [Case(DIALECTS[name], make()) for name, homes in HOMES.items() for make in homes]
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.dialect.name}-{case.base.name}")


@dataclass(frozen=True)
class Recorded:
    """Tensor names as a tool wrote them, with what of its header matters and the base they are for."""

    about: str
    base: str
    metadata: Mapping[str, str]
    names: Sequence[str]


def recorded(dialect: Dialect) -> list[Recorded]:
    found = json.loads((GOLDEN / f"{dialect.name}.json").read_text())
    return [Recorded(about, **entry) for about, entry in found.items()]


def winners(names: Sequence[str], metadata: Mapping[str, str]) -> list[str]:
    heard = {name: dialect.recognise(names, metadata) for name, dialect in DIALECTS.items()}
    claims: dict[str, Evidence] = {name: evidence for name, evidence in heard.items() if evidence is not None}
    strongest = max((evidence.weight for evidence in claims.values()), default=0)
    return [name for name, evidence in claims.items() if evidence.weight == strongest]


def write(adapter: Adapter, folder: Path, case: Case) -> tuple[Path, ...]:
    return write_adapter(adapter, folder, dialect=case.dialect.name, base=case.base, stem="bold", metadata={})


def read_one(path: Path, candidates: Sequence[BaseModel]) -> Adapter:
    config = path.with_name("adapter_config.json")
    files = AdapterFiles(path, config if config in path.parent.iterdir() else None)
    return read_adapter(files, candidates=candidates)


def weight_files(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.suffix == ".safetensors"]


def read_back(paths: Sequence[Path], case: Case) -> dict[Site, LowRank]:
    found: dict[Site, LowRank] = {}
    for path in weight_files(paths):
        found |= read_one(path, [case.base]).low_rank()
    return found


def distance(found: Mapping[Site, LowRank], wanted: Mapping[Site, LowRank]) -> float:
    assert found.keys() == wanted.keys()
    squares = [float((found[site].dense() - update.dense()).norm()) ** 2 for site, update in wanted.items()]
    return math.sqrt(sum(squares) / sum(update.norm() ** 2 for update in wanted.values()))


@every_dialect
def test_its_recorded_names_are_recognised_by_it_alone(dialect: Dialect) -> None:
    assert recorded(dialect)
    assert {entry.about: winners(entry.names, entry.metadata) for entry in recorded(dialect)} == {
        entry.about: [dialect.name] for entry in recorded(dialect)
    }


@every_dialect
def test_its_recorded_names_are_modules_of_a_base_with_roles_of_an_algorithm(dialect: Dialect) -> None:
    roles = frozenset().union(*(algorithm.required | algorithm.optional for algorithm in ALGORITHMS.values()))

    for entry in recorded(dialect):
        aliases = alias_table(known(entry.base), dialect)
        for name in entry.names:
            spelling, role = dialect.split(name)
            assert role in roles | VECTOR_ROLES | {SAVED, TOKEN}, (entry.about, name)
            left_out = role == SAVED or dialect.unmappable(spelling, frozenset({role})) != ""
            assert left_out or spelling in aliases, (entry.about, name)


@every_dialect
def test_two_modules_share_a_spelling_only_if_they_are_the_same_parts(dialect: Dialect) -> None:
    for name in ("sd1.5", "sdxl", "sd3-medium", "flux1-dev", "wan2.2-t2v-a14b", "hunyuan-video-t2v", "llama-3.2-1b"):
        seen: dict[str, object] = {}
        for spelling, module in dialect.modules(known(name)):
            assert seen.setdefault(spelling, module.parts) == module.parts, (name, spelling)


def test_every_dialect_is_written_for_a_base_here_or_is_only_read() -> None:
    assert {name for name, dialect in DIALECTS.items() if dialect.pack is None} == READ_ONLY
    assert HOMES.keys() == DIALECTS.keys() - READ_ONLY


@pytest.mark.parametrize("name", sorted(READ_ONLY))
def test_a_dialect_that_is_only_read_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(Stop, match="is only read"):
        write(CASES[0].adapter(), tmp_path, Case(DIALECTS[name], small_unet()))


@every_case
def test_what_it_writes_is_recognised_by_it_alone(case: Case, tmp_path: Path) -> None:
    for path in weight_files(write(case.adapter(), tmp_path, case)):
        file = open_weight_file(path)

        assert winners(list(file.tensors), file.metadata) == [case.dialect.name]


@every_case
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_writing_and_reading_gives_the_same_updates(case: Case, precision: torch.dtype, tmp_path: Path) -> None:
    scales = (1.0,) if case.dialect.name in FOLDING or case.base.family == "flux" else (0.5, 2.0)
    made = case.adapter(dtype=precision, scales=scales)

    again = read_back(write(made, tmp_path, case), case)

    assert again.keys() == made.updates.keys()
    for site, update in made.low_rank().items():
        assert torch.equal(again[site].up, update.up), site
        assert torch.equal(again[site].down, update.down), site
        assert again[site].kernel == update.kernel
        assert again[site].scale == update.scale


@every_case
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("scale", [1 / 3, 0.7, -1.37, 11.0])
def test_a_scale_of_any_size_keeps_its_strength(
    case: Case, precision: torch.dtype, scale: float, tmp_path: Path
) -> None:
    made = case.adapter(dtype=precision, scales=(scale, 1.0))

    again = read_back(write(made, tmp_path, case), case)

    limit = {torch.float16: 1e-3, torch.bfloat16: 5e-3}.get(precision, 1e-6)
    assert distance(again, made.low_rank()) <= limit


@every_case
def test_what_was_read_is_written_byte_for_byte_alike(case: Case, tmp_path: Path) -> None:
    first = weight_files(write(case.adapter(dtype=torch.float16, scales=(0.5,)), tmp_path / "first", case))
    for number, path in enumerate(first):
        adapter = read_one(path, [case.base])

        once = write(adapter, tmp_path / f"once {number}", case)
        again = write(read_one(weight_files(once)[0], [case.base]), tmp_path / f"again {number}", case)

        assert [found.read_bytes() for found in again] == [found.read_bytes() for found in once]
        assert open_weight_file(once[0]).hashes().tensors == open_weight_file(path).hashes().tensors


@every_case
def test_any_dialect_can_be_written_in_any_other_and_back(case: Case, tmp_path: Path) -> None:
    made = case.adapter()
    first = read_back(write(made, tmp_path / "first", case), case)

    for other in CASES:
        if other.base is not case.base or other.dialect is case.dialect:
            continue
        spoken = {part.site for _, module in other.dialect.modules(case.base) for part in module.parts}
        shared = {site: update for site, update in first.items() if site in spoken}
        there = read_back(write(replace(made, updates=shared), tmp_path / other.dialect.name, other), other)
        back = read_back(write(replace(made, updates=there), tmp_path / f"{other.dialect.name} back", case), case)
        assert distance(there, shared) <= 1e-6
        assert distance(back, shared) <= 1e-6


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", [name for name, homes in HOMES.items() if small_unet in homes])
def test_the_new_base_is_named_and_found_among_equals(name: str, component: str, tmp_path: Path) -> None:
    dialect = DIALECTS[name]
    old = small_base("small-v1", labels=["Small v1", "examples/small-v1"], file_hashes=["1" * 64])
    new = small_base("small-v2", labels=["Small v2", "examples/small-v2"], file_hashes=["2" * 64])
    stale = {
        "ss_new_sd_model_hash": "1" * 64,
        "ss_sd_model_name": "small-v1",
        "ss_base_model_version": "small_v1",
        "modelspec.architecture": "small-v1/lora",
        "modelspec.license": "cc0-1.0",
        "modelspec.trigger_phrase": "bold style",
    }
    made = replace(Case(dialect, old).adapter(match=component), metadata=stale, trigger_words=("bold style",))

    path = write_adapter(made, tmp_path, dialect=dialect.name, base=new, stem="bold", metadata={})[0]

    again = read_one(path, [old, new])
    assert again.base.name == "small-v2"
    assert again.trigger_words == ("bold style",)
    assert again.metadata["modelspec.license"] == "cc0-1.0"


@every_case
def test_every_tensor_is_accounted_for(case: Case, tmp_path: Path) -> None:
    path = write(case.adapter(scales=(0.5,)), tmp_path, case)[0]
    file = open_weight_file(path)
    tensors = {name: file.read(name) for name in file.tensors}
    split = case.dialect.split
    half = next(name for name in tensors if split(name)[1] == "up" and ("block" in name or "layer" in name))
    stray = half.replace("block", "blork").replace("layer", "lawyer")

    for changed, reason in (
        ({name: tensor for name, tensor in tensors.items() if split(name)[1] != "up"}, "incomplete-pair"),
        ({**tensors, stray: torch.ones(2, 2)}, "incomplete-pair"),
        ({**tensors, f"{half}.nobody.knows": torch.ones(2, 2)}, "unknown-tensor"),
    ):
        write_weight_file(path, changed, metadata=file.metadata)
        with pytest.raises(Refused) as raised:
            read_one(path, [case.base])
        assert raised.value.reason == reason


@every_case
def test_nan_is_never_written(case: Case, tmp_path: Path) -> None:
    made = case.adapter()
    site, update = next(iter(made.low_rank().items()))
    spoilt = replace(update, up=update.up * torch.nan)

    with pytest.raises(Refused) as raised:
        write(replace(made, updates={**made.updates, site: spoilt}), tmp_path / "out", case)

    assert raised.value.reason == "non-finite"
    assert not (tmp_path / "out").exists()


@every_dialect
def test_it_says_what_it_is_and_claims_no_checkpoint(dialect: Dialect) -> None:
    assert dialect.summary
    assert dialect.recognise([], {}) is None
    assert dialect.recognise(["conv_in.weight", "layers.0.bias"], {}) is None
    assert dialect.recognise(["unet.conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"], {}) is None
