"""GGUF files, written by llama.cpp's own package, give back what that package reads from them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.gguf_blocks import DECODERS, decode_blocks
from lorax.gguf_types import SIZES

HEADS, KEY_HEADS, HEAD = 4, 2, 8
WIDTH = HEADS * HEAD
TYPES = gguf.GGMLQuantizationType


def random_blocks(name: str, count: int) -> np.ndarray:
    """Returns random bytes of a type's blocks whose scales are ordinary numbers."""
    kind = SIZES[name]
    found = np.random.default_rng(0).integers(0, 256, (count, kind.size), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()}.get(name, (0, 2))
    for at in halves[: 1 if name in {"Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"} else 2]:
        found[:, at : at + 2] = np.random.default_rng(at).normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    if name == "MXFP4":
        found[:, 0] = np.random.default_rng(1).integers(110, 140, count)
    return found


@pytest.mark.parametrize("name", DECODERS)
def test_every_type_of_block_decodes_as_ggml_does(name: str) -> None:
    blocks = random_blocks(name, 7)
    kind = SIZES[name]

    ours = decode_blocks(name, torch.from_numpy(blocks).reshape(-1)).reshape(7, -1)

    theirs = gguf.quants.dequantize(blocks, TYPES[name])
    assert gguf.GGML_QUANT_SIZES[TYPES[name]] == (kind.numbers, kind.size)
    assert ours.shape == (7, kind.numbers)
    assert torch.allclose(ours, torch.from_numpy(theirs).reshape(7, -1), rtol=1e-6, atol=1e-7)
    assert ours.abs().max() > 0


def test_every_type_with_a_size_has_a_decoder() -> None:
    assert SIZES.keys() == DECODERS.keys()


def llama(folder: Path) -> LlamaForCausalLM:
    """Saves a small Llama with grouped-query heads and gives it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Returns rows as llama.cpp's converter orders them: 0, d/2, 1, d/2 + 1 … of each head."""
    order = [
        head * HEAD + place for head in range(heads) for pair in range(HEAD // 2) for place in (pair, pair + HEAD // 2)
    ]
    return weight[order]


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama_cpp_name(name: str) -> str:
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return top.get(name, "output.weight")
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(path: Path, state: Mapping[str, Tensor], kind: str = "F16", architecture: str = "llama") -> Path:
    """Writes a GGUF file with the official writer, matrices in one type and the rest in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_token_list([f"token {number}" for number in range(48)])
    for name, tensor in state.items():
        weight = tensor.float().numpy()
        if architecture == "llama" and ".q_proj." in name:
            weight = paired(weight, HEADS)
        if architecture == "llama" and ".k_proj." in name:
            weight = paired(weight, KEY_HEADS)
        if weight.ndim == 1:
            writer.add_tensor(llama_cpp_name(name), weight)
        else:
            writer.add_tensor(llama_cpp_name(name), gguf.quants.quantize(weight, TYPES[kind]), raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("gguf") / "llama"
    return folder, {name: tensor.detach() for name, tensor in llama(folder).state_dict().items()}


def sites_of(base: BaseModel) -> set[Site]:
    return {*base.sites, *base.tables}


def test_a_language_model_has_the_sites_and_weights_that_its_folder_has(
    model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, state = model
    expected = open_checkpoint(folder, name="folder")

    found = open_checkpoint(write_gguf(tmp_path / "small.gguf", state, "F32"), name="file")

    assert found.base.family == "llama"
    assert found.base.sites == expected.base.sites
    assert found.base.tables == expected.base.tables
    assert found.base.vectors == expected.base.vectors
    for site in sites_of(expected.base):
        assert torch.equal(found.weight(site), expected.weight(site)), site


def test_the_fingerprint_of_unquantised_numbers_is_that_of_the_folder(
    model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, state = model

    found = open_checkpoint(write_gguf(tmp_path / "small.gguf", state, "F32"), name="file")

    assert found.base.fingerprint == open_checkpoint(folder, name="folder").base.fingerprint


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.01), ("Q4_0", 0.2), ("Q5_1", 0.1)])
def test_quantised_weights_are_near_those_of_the_folder_in_their_order(
    kind: str, error: float, model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, state = model
    expected = open_checkpoint(folder, name="folder")

    found = open_checkpoint(write_gguf(tmp_path / "small.gguf", state, kind), name="file")

    assert found.base.sites == expected.base.sites
    assert found.base.fingerprint != expected.base.fingerprint
    for site in expected.base.sites:
        near, exact = found.weight(site), expected.weight(site)
        assert near.dtype == torch.float32
        assert float((near - exact).norm() / exact.norm()) < error, site


def test_a_qwen_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    state = {
        "model.embed_tokens.weight": torch.randn(48, WIDTH),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(WIDTH, WIDTH),
    }

    found = open_checkpoint(write_gguf(tmp_path / "q.gguf", state, "F32", architecture="qwen2"), name="file")

    assert found.base.family == "qwen"
    site = Site("model", "model.layers.0.self_attn.q_proj")
    assert torch.equal(found.weight(site), state["model.layers.0.self_attn.q_proj.weight"])


def test_a_gguf_base_is_read_and_not_run(model: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    found = open_checkpoint(write_gguf(tmp_path / "small.gguf", model[1]), name="file")

    with pytest.raises(Stop, match=r"can be read but not run.*GGUF"):
        _ = found.folder


def test_a_type_of_numbers_that_is_not_read_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    weight = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    writer.add_tensor("blk.0.ffn_up.weight", gguf.quants.quantize(weight, TYPES.TQ2_0), raw_dtype=TYPES.TQ2_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(Stop, match=r"blk\.0\.ffn_up\.weight.*TQ2_0.*take another quantisation"):
        open_checkpoint(tmp_path / "tiny.gguf", name="file")


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "moe.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((2, 4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(Stop, match=r"ffn_up_exps.*mixtures of experts"):
        open_checkpoint(tmp_path / "moe.gguf", name="file")


def test_a_part_of_a_split_model_says_how_to_join_it(model: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small-00001-of-00003.gguf", model[1])

    with pytest.raises(Stop, match=r"part 1 of 3.*llama-gguf-split"):
        open_checkpoint(path, name="file")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-40], "truncated"),
        (lambda content: content[:60], "truncated"),
        (lambda content: content[:4] + struct.pack("<I", 1) + content[8:], "version 1"),
        (lambda content: content[:4] + struct.pack(">I", 3) + content[8:], "big-endian"),
        (lambda content: content[:8] + struct.pack("<Q", 2**60) + content[16:], "claims"),
        (lambda content: content[:16] + struct.pack("<Q", 2**60) + content[24:], "claims"),
    ],
    ids=["last tensor cut", "header cut", "version", "byte order", "tensors", "values"],
)
def test_a_damaged_file_stops_the_run_and_says_why(
    damage: object, reason: str, model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "small.gguf", model[1])
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(Stop, match=reason) as raised:
        open_checkpoint(path, name="file")

    assert str(path) in str(raised.value)


def test_heads_that_do_not_divide_the_rows_are_no_silent_nonsense(
    model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "small.gguf", model[1])
    key = b"llama.attention.head_count"
    content = path.read_bytes()
    at = content.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
    path.write_bytes(content[:at] + struct.pack("<I", 5) + content[at + 4 :])

    with pytest.raises(Stop, match="5 heads do not divide"):
        open_checkpoint(path, name="file")


def test_a_picture_model_in_gguf_keeps_the_names_of_its_makers(tmp_path: Path) -> None:
    from lorax.inventories.sgm import sgm_names
    from tests.stand_ins.adapter_files import SMALL_UNET, small_base
    from tests.stand_ins.original_files import original_tensors

    generator = torch.Generator().manual_seed(0)
    state = {each.path: torch.randn(each.shape, generator=generator) for each in SMALL_UNET.parameters()}
    modules = [module for module in sgm_names(small_base()) if module.component == "unet"]
    writer = gguf.GGUFWriter(tmp_path / "unet.gguf", "sd1")
    for name, tensor in original_tensors(state, modules).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = open_checkpoint(tmp_path / "unet.gguf", name="file")

    assert found.base.sites == {site: shape for site, shape in small_base().sites.items() if site.component == "unet"}
    for site in found.base.sites:
        assert torch.equal(found.weight(site), state[f"{site.path}.weight"])


def opens(path: Path) -> bool:
    """Tells whether a base opens; whatever else than a reason is raised goes through."""
    try:
        open_checkpoint(path, name="x")
    except Stop:
        return False
    return True


def test_whatever_a_header_claims_the_answer_is_a_base_or_a_reason(
    model: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    content = write_gguf(tmp_path / "small.gguf", model[1]).read_bytes()
    chance = np.random.default_rng(0)
    refused = 0
    for number in range(150):
        damaged = bytearray(content)
        for at in chance.integers(8, 2600, 3):
            damaged[at] = chance.integers(0, 256)
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(damaged)
        refused += not opens(path)
        path.unlink()
    assert refused > 50
