"""The commands take a base model wherever it lies: one file, a component's folder, a quantised folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flows.adapter_files import open_bases
from lorax.checkpoint import open_checkpoint
from lorax.comparison import compare_checkpoints
from lorax.plan import load_plan
from lorax.write import write_adapter
from tests.stand_ins.adapter_commands import ask
from tests.stand_ins.original_files import compvis_file
from tests.stand_ins.quantised_folders import gptq, llama_folder, quantised_llama
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Two bases as folders, and the same two as files."""
    place = tmp_path_factory.mktemp("anywhere")
    first = make_base(place / "tiny-v1", seed=1)
    second = nudged(first, place / "tiny-v2", seed=2)
    return first, second, *(compvis_file(each, place / f"{each.name}.safetensors") for each in (first, second))


def test_a_plan_from_files_is_the_plan_from_folders(bases: tuple[Path, Path, Path, Path], tmp_path: Path) -> None:
    first, second, one, other = bases
    plans = []
    for name, pair in (("folders", (first, second)), ("files", (one, other))):
        run = ask("plan", *pair, "--method", "lora-x", "-o", tmp_path / f"{name}.safetensors")
        assert run.exit_code == 0, run.output
        plans.append(load_plan(tmp_path / f"{name}.safetensors"))

    from_folders, from_files = plans
    assert from_files.source_fingerprint == from_folders.source_fingerprint
    assert (from_files.source, from_files.target) == ("tiny-v1", "tiny-v2")
    assert from_files.key == from_folders.key
    assert [site.reason for site in from_files.sites] == [site.reason for site in from_folders.sites]


def test_an_adapter_is_converted_between_two_files(bases: tuple[Path, Path, Path, Path], tmp_path: Path) -> None:
    _, _, one, other = bases
    base = open_checkpoint(one, name="tiny-v1").base
    (adapter,) = write_adapter(
        make_adapter(base), tmp_path / "in", dialect="kohya", base=base, stem="style", metadata={}
    )

    run = ask(
        "convert", adapter, "--source", one, "--target", other, "--method", "lora-x", "-o", tmp_path / "o", "--json"
    )

    assert run.exit_code == 0, run.output
    facts = json.loads(run.stdout)
    assert facts["sites_mapped"] == facts["sites_total"] > 0


def test_a_method_that_runs_bases_says_that_a_file_is_not_enough(
    bases: tuple[Path, Path, Path, Path], tmp_path: Path
) -> None:
    probe = tmp_path / "probe.toml"
    probe.write_text('[probe]\nprompts = ["zero", "one"]\n')

    run = ask(
        "plan", bases[2], bases[3], "--method", "calibrated", "--probe", probe, "-o", tmp_path / "plan.safetensors"
    )

    assert run.exit_code == 2
    assert "can be read but not run" in run.stderr
    assert "Give its whole folder" in run.stderr
    assert not (tmp_path / "plan.safetensors").exists()


def test_a_quantised_base_is_compared_with_the_plain_one(tmp_path: Path) -> None:
    llama_folder(tmp_path / "plain")
    folder, _ = quantised_llama(tmp_path / "quantised", {"quant_method": "gptq", "bits": 4}, gptq(4, group=16))

    found = compare_checkpoints(*open_bases([tmp_path / "plain", folder]))

    assert found.to_json()
    assert {base.base.version for base in open_bases([folder])} == {"custom"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("sdxl", "sdxl"),
        ("sdxl/unet", "sdxl"),
        ("sdxl/unet/diffusion_pytorch_model.safetensors", "sdxl"),
        ("pony.v6.safetensors", "pony.v6"),
    ],
)
def test_a_base_is_named_by_what_says_most(given: str, name: str, tmp_path: Path) -> None:
    folder = make_base(tmp_path / "sdxl", seed=0)
    compvis_file(folder, tmp_path / "pony.v6.safetensors")

    (found,) = open_bases([tmp_path / given])

    assert found.base.name == name
    assert torch.isfinite(found.weight(next(iter(found.base.sites)))).all()


def test_a_base_in_the_cache_of_hugging_face_is_named_by_its_model(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "models--someone--tiny" / "snapshots" / "0123abcd", seed=0)
    blob = compvis_file(folder, tmp_path / "models--someone--tiny" / "0f1e2d.safetensors")
    (folder / "tiny-v1.safetensors").symlink_to(blob)

    found = open_bases([folder, folder / "unet", folder / "tiny-v1.safetensors"])

    assert [each.base.name for each in found] == ["tiny", "tiny", "tiny-v1"]
