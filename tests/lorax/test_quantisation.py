"""Quantised base models give the weights that the libraries that made them read, one site at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.adapter import Site
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import Stop
from lorax.quantisation import unpack
from lorax.weight_file import open_weight_file, write_weight_file
from tests.stand_ins.quantised_folders import Packed, awq, fp8, gptq, llama_folder, quantised_llama, words_of

GOLDEN = Path("tests/golden/quantised")
Q = "model.layers.0.self_attn.q_proj"


def golden(stem: str) -> dict[str, Tensor]:
    file = open_weight_file(GOLDEN / f"{stem}.safetensors")
    return {name: file.read(name) for name in file.tensors}


def cases(stem: str) -> list[str]:
    names = open_weight_file(GOLDEN / f"{stem}.safetensors").tensors
    return sorted(name.removeprefix("expected.") for name in names if name.startswith("expected."))


def with_one_quantised(folder: Path, tensors: dict[str, Tensor], settings: dict[str, object]) -> Checkpoint:
    """Opens the small Llama whose query projection is quantised like this, whatever its shape then is."""
    state = llama_folder(folder)
    del state[f"{Q}.weight"]
    write_weight_file(folder / "model.safetensors", state | {f"{Q}.{role}": each for role, each in tensors.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return open_checkpoint(folder, name="quantised")


def parts_of(stem: str, case: str) -> tuple[dict[str, Tensor], Tensor]:
    found = golden(stem)
    parts = {name.removeprefix(f"{case}."): each for name, each in found.items() if name.startswith(f"{case}.")}
    return parts, found[f"expected.{case}"]


@pytest.mark.parametrize("case", cases("bitsandbytes"))
def test_bitsandbytes_weights_are_what_bitsandbytes_reads(case: str, tmp_path: Path) -> None:
    parts, expected = parts_of("bitsandbytes", case)

    found = with_one_quantised(tmp_path, parts, {"quant_method": "bitsandbytes", "load_in_4bit": True})

    site = Site("model", Q)
    assert found.base.sites[site].weight_shape == expected.shape
    assert found.weight(site).dtype == torch.float32
    assert torch.allclose(found.weight(site), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", cases("compressed_tensors"))
def test_compressed_weights_are_what_compressed_tensors_reads(case: str, tmp_path: Path) -> None:
    parts, expected = parts_of("compressed_tensors", case)

    found = with_one_quantised(tmp_path, parts, {"quant_method": "compressed-tensors"})

    assert torch.allclose(found.weight(Site("model", Q)), expected, rtol=1e-6, atol=1e-7)


WAYS: dict[str, tuple[dict[str, object], Packed]] = {
    **{
        f"gptq {bits} bits": ({"quant_method": "gptq", "bits": bits, "group_size": 16}, gptq(bits, group=16))
        for bits in (2, 3, 4, 8)
    },
    "gptq version 2": (
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}, gptq(4, group=16, version=2),
    ),
    "gptq act-order": ({"quant_method": "gptq", "bits": 4, "desc_act": True}, gptq(4, group=16, order=True)),
    "gptq without g_idx": ({"quant_method": "gptq", "bits": 4}, gptq(4, group=16, index=False)),
    "gptq one group": ({"quant_method": "gptq", "bits": 4, "group_size": -1}, gptq(4, group=10_000)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, awq(16)),
    "fp8 blocks": ({"quant_method": "fp8", "weight_block_size": [16, 16]}, fp8("weight_scale_inv", "block")),
    "fp8 uneven blocks": (
        {"quant_method": "fp8", "weight_block_size": [24, 24]}, fp8("weight_scale_inv", "block", block=24),
    ),
    "fp8 outputs": ({"quant_method": "fbgemm_fp8"}, fp8("weight_scale", "output")),
    "fp8 whole": ({"quant_method": "modelopt"}, fp8("weight_scale", "tensor")),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_quantised_folder_has_the_sites_of_the_plain_one_and_the_weights_that_its_numbers_are_worth(
    way: str, tmp_path: Path
) -> None:
    settings, pack = WAYS[way]
    llama_folder(tmp_path / "plain")
    plain = open_checkpoint(tmp_path / "plain", name="plain").base
    folder, worth = quantised_llama(tmp_path / "quantised", settings, pack)

    found = open_checkpoint(folder, name="quantised")

    assert (found.base.family, found.base.sites, found.base.tables) == ("llama", plain.sites, plain.tables)
    assert found.base.parameters == plain.parameters
    assert found.base.fingerprint != plain.fingerprint
    assert len(worth) == 7
    for path, expected in worth.items():
        assert torch.allclose(found.weight(Site("model", path)), expected, rtol=1e-6, atol=1e-7), path


def test_old_gptq_folders_say_their_bits_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder, worth = quantised_llama(tmp_path, None, gptq(3, group=16))
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 3, "group_size": 16, "desc_act": False}))

    found = open_checkpoint(folder, name="quantised")

    assert torch.allclose(found.weight(Site("model", Q)), worth[Q])


def test_the_two_versions_of_gptq_are_two_models(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4}
    first, _ = quantised_llama(tmp_path / "1", settings, gptq(4, group=16))
    second, _ = quantised_llama(tmp_path / "2", {**settings, "checkpoint_format": "gptq_v2"}, gptq(4, group=16))

    fingerprints = {open_checkpoint(folder, name="q").base.fingerprint for folder in (first, second)}

    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 5}, "bits is 5"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "aqlm"}, "'aqlm', of which nothing is known here"),
        ({"quant_method": "compressed-tensors", "transform_config": {"groups": {}}}, "rotated"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}, "sparse"),
        (None, "put config.json with its quantization_config"),
    ],
)
def test_what_is_not_read_is_refused_by_name_with_what_to_do(
    settings: dict[str, object] | None, said: str, tmp_path: Path
) -> None:
    folder, _ = quantised_llama(tmp_path, settings, gptq(4, group=16))

    with pytest.raises(Stop) as raised:
        open_checkpoint(folder, name="quantised")

    assert said in str(raised.value)
    assert str(folder) in str(raised.value)


def damaged(parts: dict[str, Tensor], damage: str) -> dict[str, Tensor]:
    match damage:
        case "scales of another size":
            return {**parts, "scales": parts["scales"][:, :-8].contiguous()}
        case "zeros of another size":
            return {**parts, "qzeros": parts["qzeros"][:, :-1].contiguous()}
        case "numbers of another type":
            return {**parts, "qweight": parts["qweight"].float()}
        case "no scales":
            return {role: part for role, part in parts.items() if role != "scales"}
        case _:
            return {**parts, "g_idx": parts["g_idx"] + 7}


@pytest.mark.parametrize(
    "damage",
    [
        "scales of another size",
        "zeros of another size",
        "numbers of another type",
        "no scales",
        "groups that are not there",
    ],
)
def test_tensors_that_contradict_each_other_stop_the_run(damage: str, tmp_path: Path) -> None:
    parts, _ = gptq(4, group=16)(torch.empty(32, 32))

    with pytest.raises(Stop, match="q_proj"):
        with_one_quantised(tmp_path, damaged(parts, damage), {"quant_method": "gptq", "bits": 4}).weight(
            Site("model", Q)
        )


def test_a_state_of_bitsandbytes_is_not_trusted(tmp_path: Path) -> None:
    parts, _ = parts_of("bitsandbytes", "nf4")
    role = "weight.quant_state.bitsandbytes__nf4"
    for number, state in enumerate(("{", "[]", '{"shape": [40]}', '{"shape": [40, -96]}', '{"shape": "x"}')):
        spoilt = parts | {role: torch.tensor(list(state.encode()), dtype=torch.uint8)}

        with pytest.raises(Stop, match="q_proj"):
            with_one_quantised(tmp_path / str(number), spoilt, {"quant_method": "bitsandbytes"})


def test_whole_numbers_are_never_taken_for_a_weight(tmp_path: Path) -> None:
    weight = torch.ones(32, 32, dtype=torch.int8)

    with pytest.raises(Stop, match=r"q_proj\.weight holds I8 numbers"):
        with_one_quantised(tmp_path, {"weight": weight}, {})


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_are_unpacked_from_words_that_they_straddle(bits: int) -> None:
    numbers = torch.randint(0, 2**bits, (3, 64), generator=torch.Generator().manual_seed(bits))

    assert torch.equal(unpack(words_of(numbers.tolist(), bits), bits, 64), numbers)


@pytest.mark.parametrize("shape", [(5, 30), (3, 5), (2, 64)])
def test_four_bits_are_read_by_hand_where_rows_are_no_whole_blocks(shape: tuple[int, int], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    count, block, outer = shape[0] * shape[1], 8, 2
    blocks = -(-count // block)
    numbers = torch.randint(0, 16, (count + count % 2,), generator=generator, dtype=torch.uint8)
    levels, table = torch.rand(16, generator=generator), torch.rand(256, generator=generator)
    magnitudes = torch.randint(0, 256, (blocks,), generator=generator, dtype=torch.uint8)
    nested = torch.rand(-(-blocks // outer), generator=generator)
    state = {
        "quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": list(shape), "nested_blocksize": outer,
        "nested_dtype": "float32", "nested_offset": 0.25,
    }  # fmt: skip
    parts = {
        "weight": (numbers[::2] << 4 | numbers[1::2])[:, None],
        "weight.absmax": magnitudes,
        "weight.quant_map": levels,
        "weight.nested_absmax": nested,
        "weight.nested_quant_map": table,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }

    found = with_one_quantised(tmp_path, parts, {"quant_method": "bitsandbytes"})

    expected = torch.empty(count)
    for i in range(count):
        magnitude = table[int(magnitudes[i // block])] * nested[i // block // outer] + 0.25
        expected[i] = levels[int(numbers[i])] * magnitude
    assert torch.allclose(found.weight(Site("model", Q)), expected.reshape(shape), rtol=1e-6)
