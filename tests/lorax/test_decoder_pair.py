from __future__ import annotations

from pathlib import Path

import torch

from lorax.decoder_pair import DecoderPair
from lorax.method import Heads
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_decoders import CONFIG, drawn_weights, layer_site, make_decoder, open_decoders, write_decoder


def pair_of(source: Path, target: Path) -> DecoderPair:
    opened = open_decoders(source, target)
    found = DecoderPair.of(opened.source, opened.target)
    assert found is not None
    return found


def test_two_language_models_are_a_pair_and_others_are_not(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    text = pair_of(*[make_decoder(tmp_path / "a", seed=1)] * 2)

    assert DecoderPair.of(lineage.source, lineage.target) is None
    assert DecoderPair.of(text.source, lineage.target) is None


def test_heads_are_those_of_either_configuration(tmp_path: Path) -> None:
    other = make_decoder(tmp_path / "b", seed=1, num_attention_heads=6, num_key_value_heads=6, head_dim=4)

    assert pair_of(make_decoder(tmp_path / "a", seed=1), other).heads() == (Heads(4, 2), Heads(6, 6))


def test_shared_embeddings_are_rows_of_both_tables_for_the_tokens_that_both_tables_have(tmp_path: Path) -> None:
    here, there = drawn_weights({**CONFIG, "vocab_size": 3}, seed=1), drawn_weights({**CONFIG, "vocab_size": 2}, seed=2)
    pair = pair_of(
        # Tokenizers may name tokens beyond the end of a table.
        write_decoder(tmp_path / "a", here, {**CONFIG, "vocab_size": 3}, tokens=["x", "a", "b"]),
        write_decoder(tmp_path / "b", there, {**CONFIG, "vocab_size": 2}, tokens=["b", "y", "a"]),
    )

    source, target = pair.shared_embeddings()

    assert torch.equal(source, here["model.embed_tokens.weight"][[2]])
    assert torch.equal(target, there["model.embed_tokens.weight"][[0]])


def test_siblings_are_weights_of_the_block_by_the_first_name_that_there_is(tmp_path: Path) -> None:
    pair = pair_of(make_decoder(tmp_path / "a", seed=1), make_decoder(tmp_path / "b", seed=2))
    around = pair.around(layer_site("self_attn.q_proj", 0), layer_site("self_attn.q_proj", 1))

    found = around.sibling("dense", "o_proj")

    assert found is not None
    assert torch.equal(found[0], pair.source.weight(layer_site("self_attn.o_proj", 1)))
    assert torch.equal(found[1], pair.target.weight(layer_site("self_attn.o_proj", 0)))
    assert around.sibling("qkv_proj") is None


def test_what_is_remembered_is_computed_once_for_all_sites(tmp_path: Path) -> None:
    pair = pair_of(*[make_decoder(tmp_path / "a", seed=1)] * 2)
    sites = [layer_site("self_attn.q_proj", layer) for layer in (0, 1)]
    asked = []

    def compute() -> torch.Tensor:
        asked.append(1)
        return torch.ones(2)

    first, second = (pair.around(site, site).remember("map", compute) for site in sites)

    assert first is second
    assert len(asked) == 1


def test_a_base_that_is_one_file_has_its_words_beside_it(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "a", seed=1)
    pair = pair_of(folder / "model.safetensors", folder)

    source, target = pair.shared_embeddings()

    assert pair.heads() == (Heads(4, 2), Heads(4, 2))
    assert torch.equal(source, target)
