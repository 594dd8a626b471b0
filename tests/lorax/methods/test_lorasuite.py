"""lorasuite against its formulas, written out densely with rows as vectors, as the paper has them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.convert import Conversion, convert_adapters
from lorax.errors import Stop
from lorax.method import Setting, Term
from lorax.operators import Blocks
from tests.lorax.methods.toy import carry, random
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_decoders import (
    CONFIG,
    LETTERS,
    DecoderPair,
    drawn_weights,
    layer_site,
    make_decoder,
    open_decoders,
    write_decoder,
)

ROLES = [f"self_attn.{role}_proj" for role in "qkvo"] + [f"mlp.{role}_proj" for role in ("gate", "up", "down")]
TARGETS: dict[str, dict[str, object]] = {
    "more-groups": {"hidden_size": 30, "intermediate_size": 52, "num_attention_heads": 5, "num_key_value_heads": 5},
    "one-group": {"hidden_size": 18, "intermediate_size": 33, "num_attention_heads": 6, "num_key_value_heads": 1},
    "fewer-heads": {"hidden_size": 20, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
}


def term_at(pair: DecoderPair, role: str, settings: dict[str, Setting] | None = None) -> Term | str:
    plan = pair.plan("lorasuite", settings)
    (found,) = [site for site in plan.sites if site.target == layer_site(role)]
    return found.term or found.reason


def moved(pair: DecoderPair, role: str, update: Tensor, settings: dict[str, Setting] | None = None) -> Tensor:
    found = term_at(pair, role, settings)
    assert isinstance(found, Term), found
    return carry(found, update, to=pair.target.weight(layer_site(role)))


class OneLayer:
    """The first layer of a base with rows as vectors: every weight turned, heads apart, keys and values repeated."""

    def __init__(self, pair: DecoderPair, side: str, config: dict[str, object]) -> None:
        base = pair.source if side == "source" else pair.target
        self.weights = {role: base.weight(layer_site(role)).double().T for role in ROLES}
        self.queries, self.keys = int(str(config["num_attention_heads"])), int(str(config["num_key_value_heads"]))

    def head(self, role: str, number: int, matrix: Tensor | None = None) -> Tensor:
        """Returns the columns (rows for the output projection) of a query head in a weight or another matrix."""
        whole = self.weights[role] if matrix is None else matrix
        if role.endswith("o_proj"):
            return whole.chunk(self.queries, dim=0)[number]
        if role.endswith("q_proj"):
            return whole.chunk(self.queries, dim=1)[number]
        return whole.chunk(self.keys, dim=1)[number // (self.queries // self.keys)]

    def meaning(self, number: int, residual: Tensor | None = None) -> Tensor:
        """Returns (W_Q W_K^T, W_V W_O) of a head as one vector, mapped by W_h where it is given."""
        query, key, value, output = (self.head(role, number) for role in ROLES[:4])
        both = [query @ key.T, value @ output]
        if residual is not None:
            both = [residual.T @ each @ residual for each in both]
        return torch.cat([each.flatten() for each in both])


def matched_heads(source: OneLayer, target: OneLayer, residual: Tensor) -> dict[int, int]:
    """Returns, for new heads, the old head that it goes with: the best of all assignments."""
    old = torch.stack([source.meaning(number, residual) for number in range(source.queries)])
    new = torch.stack([target.meaning(number) for number in range(target.queries)])
    cosines = torch.nn.functional.normalize(new) @ torch.nn.functional.normalize(old).T
    few, many = sorted((source.queries, target.queries))
    table = cosines if target.queries == few else cosines.T
    every = permutations(range(many), few)
    best = max(every, key=lambda each: sum(float(table[row, column]) for row, column in enumerate(each)))
    return dict(enumerate(best)) if target.queries == few else {new: old for old, new in enumerate(best)}


def by_formula(pair: DecoderPair, role: str, update: Tensor, config: dict[str, object], form: str) -> Tensor:
    """Returns dW_n for dW_o, (out, in) both, by equation 3 head by head or by the feed-forward rule."""
    source, target = OneLayer(pair, "source", CONFIG), OneLayer(pair, "target", config)
    tables = [base.weight(next(iter(base.base.tables))).double() for base in (pair.source, pair.target)]
    residual = torch.linalg.pinv(tables[0]) @ tables[1]
    change = update.double().T
    old, new = source.weights[role], target.weights[role]
    if role.endswith("down_proj"):
        return ((torch.linalg.pinv(old.T) @ residual @ new.T).T @ change @ torch.linalg.pinv(residual).T).T.float()
    if role.startswith("mlp"):
        return (residual.T @ change @ torch.linalg.pinv(old) @ torch.linalg.pinv(residual).T @ new).T.float()
    total = torch.zeros_like(new)
    for number, partner in matched_heads(source, target, residual).items():
        here, there = source.head(role, partner), target.head(role, number)
        part = source.head(role, partner, change)
        out = target.head(role, number, total)
        undone, back = (here.T, residual) if form == "printed" else map(torch.linalg.pinv, (here, residual.T))
        if role.endswith("o_proj"):
            out += there @ residual.T @ undone @ part @ back
        else:
            out += residual.T @ part @ undone @ back @ there
    if role.endswith(("k_proj", "v_proj")):
        total /= target.queries // target.keys
    return total.T.float()


Case = tuple[DecoderPair, dict[str, object]]


@pytest.fixture(scope="module", params=sorted(TARGETS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    config = {**CONFIG, **TARGETS[request.param]}
    return open_decoders(make_decoder(folder / "a", seed=1), make_decoder(folder / "b", seed=2, **config)), config


@pytest.mark.parametrize("form", ["printed", "inverse"])
@pytest.mark.parametrize("role", ROLES)
def test_the_operators_are_the_dense_formula(pair: Case, role: str, form: str) -> None:
    bases, config = pair
    update = random(*bases.source.weight(layer_site(role)).shape, seed=3)

    found, expected = moved(bases, role, update, {"heads": form}), by_formula(bases, role, update, config, form)

    assert found.shape == bases.target.weight(layer_site(role)).shape
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_head_costs_what_a_head_holds_and_not_what_the_weight_does(pair: Case) -> None:
    found = term_at(pair[0], "self_attn.q_proj")

    assert isinstance(found, Term)
    assert isinstance(found.output, Blocks)
    heads = min(4, int(str(pair[1]["num_attention_heads"])))
    assert len(found.output.blocks) == heads == found.figures["heads"]
    assert -1 <= found.figures["head_cosine"] <= 1


def turned(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Returns the same model in other hidden bases, and for each role the maps (left, right) of its weight.

    The residual stream is rotated, key groups change places, and every head has a basis of its own.
    """
    rotation = torch.linalg.qr(random(24, 24, seed=4).double())[0]
    inner = [random(6, 6, seed=5 + number).double() + 2 * torch.eye(6).double() for number in range(4)]
    swap = torch.kron(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.eye(12).double())
    swap_keys = torch.kron(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.eye(6).double())
    keys, values = torch.block_diag(*inner[:2]), torch.block_diag(*inner[2:])
    queries = torch.block_diag(*(torch.linalg.inv(inner[group]).T for group in (0, 0, 1, 1)))
    outputs = torch.block_diag(*(torch.linalg.inv(inner[2 + group]) for group in (0, 0, 1, 1)))
    maps = {
        "self_attn.q_proj": (swap @ queries, rotation.T),
        "self_attn.k_proj": (swap_keys @ keys, rotation.T),
        "self_attn.v_proj": (swap_keys @ values, rotation.T),
        "self_attn.o_proj": (rotation, outputs @ swap.T),
    }
    new = dict(weights)
    for name, weight in weights.items():
        role = next((role for role in maps if role in name), None)
        if role is not None:
            new[name] = (maps[role][0] @ weight.double() @ maps[role][1]).float()
        elif "embed_tokens" in name:
            new[name] = (weight.double() @ rotation.T).float()
    return new, maps


@pytest.mark.parametrize("role", ROLES[:4])
def test_inverses_follow_every_change_of_hidden_basis_and_the_printed_form_does_not(role: str, tmp_path: Path) -> None:
    weights = drawn_weights(CONFIG, seed=1)
    other, maps = turned(weights)
    pair = open_decoders(write_decoder(tmp_path / "a", weights, CONFIG), write_decoder(tmp_path / "b", other, CONFIG))
    update = random(*weights[f"{layer_site(role).path}.weight"].shape, seed=3)
    # An update changes a weight, so in the other basis it is turned just as the weight is.
    expected = (maps[role][0] @ update.double() @ maps[role][1]).float()

    inverse, printed = (moved(pair, role, update, {"heads": form}) for form in ("inverse", "printed"))

    assert float((inverse - expected).norm() / expected.norm()) < 1e-3
    assert float((printed - expected).norm() / expected.norm()) > 0.1


def test_tokens_are_matched_by_what_they_say(tmp_path: Path) -> None:
    weights, role = drawn_weights(CONFIG, seed=1), "mlp.down_proj"
    order = torch.randperm(len(LETTERS), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = dict(weights)
    shuffled["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][order]
    source, plain = (write_decoder(tmp_path / name, weights, CONFIG) for name in "ab")
    other = write_decoder(tmp_path / "c", shuffled, CONFIG, tokens=[LETTERS[row] for row in order])
    update = random(24, 40, seed=3)

    same, found = (moved(open_decoders(source, target), role, update) for target in (plain, other))

    assert torch.allclose(found, same, atol=1e-4)


def test_bases_that_share_no_token_have_no_map(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "a", seed=1)
    numbers = [f"<{row}>" for row in range(len(LETTERS))]
    target = write_decoder(tmp_path / "b", drawn_weights(CONFIG, seed=2), CONFIG, tokens=numbers)

    assert {term_at(open_decoders(source, target), role) for role in ROLES} == {"no-shared-tokens"}


def test_without_a_tokenizer_or_the_number_of_heads_there_is_nothing_to_compile(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "a", seed=1)
    pair = open_decoders(folder, folder)
    config = (folder / "config.json").read_text()

    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Stop, match=r"attention heads cannot be read.*config.json"):
        pair.plan("lorasuite")
    (folder / "config.json").write_text(config)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Stop, match="put the tokenizer's files beside the weights"):
        pair.plan("lorasuite")


def test_fused_projections_the_head_and_other_kinds_of_heads_get_no_update(tmp_path: Path) -> None:
    fused = make_decoder(tmp_path / "fused", seed=1, model_type="phi3")
    untied = make_decoder(tmp_path / "untied", seed=1, tie_word_embeddings=False)
    misread = make_decoder(tmp_path / "misread", seed=1)
    whole = open_decoders(misread, misread)
    config = (misread / "config.json").read_text()
    (misread / "config.json").write_text(config.replace('"num_attention_heads": 4', '"num_attention_heads": 8'))

    assert term_at(open_decoders(fused, fused), "self_attn.o_proj") == "no-separate-heads"
    assert term_at(open_decoders(fused, fused), "self_attn.qkv_proj") == "no-formula"
    (head,) = [site for site in open_decoders(untied, untied).plan("lorasuite").sites if site.target.path == "lm_head"]
    assert (head.term, head.reason) == (None, "no-formula")
    assert term_at(whole, "self_attn.q_proj") == "no-separate-heads"


def test_bases_that_are_no_language_models_get_no_update(lineage: Pair) -> None:  # noqa: F811
    sites = lineage.plan("lorasuite").sites

    assert {site.reason for site in sites} == {"not-a-language-model"}


def test_another_form_is_named_beside_those_there_are(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "a", seed=1)

    with pytest.raises(Stop, match=r"'invers'; it is 'printed' or 'inverse'"):
        open_decoders(folder, folder).plan("lorasuite", {"heads": "invers"})


@pytest.mark.parametrize("target", ["text-v2", "text-other", "text-wide"])
def test_the_text_example_s_adapters_find_a_home_for_every_update_but_the_head_s(target: str) -> None:
    bases = Path(__file__).resolve().parents[3] / "examples" / "text" / "bases"
    pair = open_decoders(bases / "text-v1", bases / target)
    plan = pair.plan("lorasuite")

    assert {site.target.path for site in plan.sites if site.term is None} == {"lm_head"}
    (found,) = convert_adapters(plan, [make_adapter(pair.source.base, match="proj")])
    assert isinstance(found, Conversion)
    for report in found.sites:
        assert report.target == report.site
        assert 0 < report.kept_norm < float("inf")
