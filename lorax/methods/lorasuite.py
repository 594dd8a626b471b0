"""lorasuite: the closed-form step of LoRASuite, between decoder language models of any width, depth and head count.

LoRASuite (arXiv 2505.13515), with rows as vectors, W (in, out): the token tables give one map of the residual stream
for all layers, W_h = E_o^+ E_n over shared tokens. Attention head by head (eq. 3, algorithm 2), old head h matched with
a new one,

    dW_n^h = W_h^T dW_o^h (W_o^h)^T W_h W_n^h

for query, key and value, mirrored for the output projection; feed-forward by W_i = W_o^-1 W_h W_n of its own weights.
Here weights are (out, in), so that with W = W^h of a head, transposed,

    query, key, value   dW_n = (W_n W_h^T W_o^T) dW_o W_h        output   dW_n = W_h^T dW_o (W_o^T W_h W_n)
    gate, up            dW_n = (W_n W_h^+ W_o^+) dW_o W_h        down     dW_n = W_h^+ dW_o (W_o^+ W_h W_n)

which fits at every pair of widths: left and right factors that do not depend on the adapter, so its rank stays and the
paper's SVD of a dense update is not needed. As the authors' program does it where the paper is silent: one assignment
of heads per layer, on the cosine of (W_Q W_K^T, W_V W_O^T) as one vector, mapped by W_h, by the Hungarian method; keys
and values of grouped-query attention are repeated for every query head that shares them, and in a new model that groups
its heads the mean over the group is taken; pseudo-inverses in the feed-forward part where attention has transposes.
Chosen here: gate is treated as up (the program leaves it out), new heads that no old head is left for get nothing, and
layers are those of the correspondence (the paper aligns them by activations). Not done: the fine-tuning that follows
in the paper, without which its own tables show no lift (0.6 and -0.4 % of what retraining gives).

A transpose stands where an inverse belongs, so that strength follows the weights' norms and a base paired with itself
does not give an update back: `heads = "inverse"` puts W_o^+ and W_h^+ there as in the feed-forward part, `norm_match`
sets the strength alone right. Known failures: a map of the embeddings does not hold at depth; rotary positions and the
gains of norms are ignored. Between unrelated runs of examples/text updates come out several times too strong and do
harm (for the JSON adapter 2 to 4 times as much as retraining helps, a half with `norm_match`); between checkpoints of
one run plain copy is far better. Fused projections, experts' routers and the output head have no formula here and get
no update.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorax.assignment import best_assignment
from lorax.errors import Stop
from lorax.method import Decoders, Heads, Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import Blocks, Dense, Operator, cheaper

_OUTPUTS = ("o_proj", "dense")
_FORMS = ("printed", "inverse")
_ROWS = 8192


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the factors left and right of the update, by the role of the weight."""
    if settings["heads"] not in _FORMS:
        raise Stop(f"setting heads of lorasuite is {settings['heads']!r}; it is {' or '.join(map(repr, _FORMS))}")
    around, role = site.decoders, site.target.path.rpartition(".")[2]
    if around is None:
        return NoTerm("not-a-language-model")
    if role in {"q_proj", "k_proj", "v_proj", *_OUTPUTS}:
        found = _attention(site, around, role, inverse=settings["heads"] == "inverse")
    elif role in {"gate_proj", "up_proj", "fc1", "down_proj", "fc2"}:
        found = _feed_forward(site, around, widens=role not in {"down_proj", "fc2"})
    else:
        return NoTerm("no-formula")
    return norm_matched(found, site) if isinstance(found, Term) and settings["norm_match"] else found


def _residual(around: Decoders) -> Tensor:
    """Returns W_h (source width, target width), float64; nothing but zeros where no token is shared."""
    return around.remember("residual", lambda: _map_of_embeddings(*around.shared_embeddings()))


def _inverse_residual(around: Decoders) -> Tensor:
    return around.remember("inverse residual", lambda: _pseudo_inverse(_residual(around)))


def _map_of_embeddings(source: Tensor, target: Tensor) -> Tensor:
    gram = torch.zeros(source.shape[1], source.shape[1], dtype=torch.float64, device=source.device)
    cross = torch.zeros(source.shape[1], target.shape[1], dtype=torch.float64, device=source.device)
    for here, there in zip(torch.split(source, _ROWS), torch.split(target, _ROWS), strict=True):
        gram += here.double().mT @ here.double()
        cross += here.double().mT @ there.double()
    return _solved(gram, cross)


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    """Returns the Moore-Penrose inverse of (..., rows, columns), float64, from the Gram matrix of the shorter side."""
    matrix = matrix.double()
    if matrix.shape[-2] < matrix.shape[-1]:
        return _solved(matrix @ matrix.mT, matrix).mT
    return _solved(matrix.mT @ matrix, matrix.mT)


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    """Returns gram^+ right; directions below 1e-12 of the largest are not there."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    pivots = lower.diagonal(dim1=-2, dim2=-1)
    if not failed.any() and bool((pivots.amin(-1) > 1e-5 * pivots.amax(-1)).all()):
        return torch.cholesky_solve(right, lower)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-12 * values[..., -1:]
    inverse = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0.0)
    solution: Tensor = (vectors * inverse[..., None, :]) @ (vectors.mT @ right)
    return solution


def _feed_forward(site: SiteInputs, around: Decoders, *, widens: bool) -> Term | NoTerm:
    residual, back = _residual(around), _inverse_residual(around)
    if not residual.any():
        return NoTerm("no-shared-tokens")
    inverse, there = _pseudo_inverse(site.source_weight()), site.target_weight().double()
    if widens:
        return Term(_product(there @ back, inverse), _dense(residual.mT))
    return Term(_dense(back), _product((residual @ there).mT, inverse.mT))


def _attention(site: SiteInputs, around: Decoders, role: str, *, inverse: bool) -> Term | NoTerm:
    layer = around.remember(site.target.path.rpartition(".")[0], lambda: _layer(around))
    if layer.numel() == 0:
        return NoTerm("no-separate-heads")
    residual = _residual(around)
    if not residual.any():
        return NoTerm("no-shared-tokens")
    matched, cosines = layer
    coupling = matched if role in {"q_proj", *_OUTPUTS} else _by_group(matched, *around.heads())
    there, here = (
        _heads_of(weight().mT if role in _OUTPUTS else weight(), count)
        for weight, count in zip((site.target_weight, site.source_weight), coupling.shape, strict=True)
    )
    undone = _pseudo_inverse(here) if inverse else here.mT
    back = _inverse_residual(around) if inverse else residual.mT
    figures = {"heads": float(matched.sum()), "head_cosine": float(cosines.sum() / matched.sum())}
    if role in _OUTPUTS:
        return Term(_dense(back), _blocks(coupling, there @ residual.mT, undone), figures=figures)
    return Term(_blocks(coupling, there @ back, undone), _dense(residual.mT), figures=figures)


def _layer(around: Decoders) -> Tensor:
    """Returns, stacked, which old head each new one is matched with (1 or 0) and the cosine there.

    Empty where projections are fused or do not divide into heads of one width.
    """
    pairs = [around.sibling(role) for role in ("q_proj", "k_proj", "v_proj")] + [around.sibling(*_OUTPUTS)]
    weights = [pair for pair in pairs if pair is not None]
    both = list(enumerate(around.heads()))
    if len(weights) < len(pairs) or not all(_divides([pair[side] for pair in weights], heads) for side, heads in both):
        return torch.empty(0)
    source, target = (_by_query([pair[side] for pair in weights], heads) for side, heads in both)
    cosines = _cosines([part @ _residual(around) for part in source], target)
    matched = torch.zeros_like(cosines)
    for new, old in best_assignment(cosines):
        matched[new, old] = 1.0
    return torch.stack([matched, matched * cosines])


def _divides(weights: list[Tensor], heads: Heads) -> bool:
    query, key, value, output = weights
    width = query.shape[0] / heads.queries
    return query.shape[0] == output.shape[1] and key.shape[0] == value.shape[0] == heads.keys * width


def _by_query(weights: list[Tensor], heads: Heads) -> list[Tensor]:
    """Returns W_Q, W_K, W_V and W_O^T, (query heads, width, hidden) each, shared keys and values repeated."""
    query, key, value, output = weights
    shared = [_heads_of(part, heads.keys).repeat_interleave(heads.queries // heads.keys, 0) for part in (key, value)]
    return [_heads_of(query, heads.queries), *shared, _heads_of(output.mT, heads.queries)]


def _heads_of(weight: Tensor, count: int) -> Tensor:
    return weight.double().reshape(count, -1, weight.shape[1])


def _cosines(source: list[Tensor], target: list[Tensor]) -> Tensor:
    """Returns (target heads, source heads): cosines of (W_Q W_K^T, W_V W_O^T) as vectors, which are never formed."""
    # <Q'K, Q_t'K_t> is the sum over entries of (Q Q_t') * (K K_t'), both of the size of a head.
    dots = [
        _joint([torch.einsum("wd,hvd->hwv", part[old], other) for part, other in zip(source, target, strict=True)])
        for old in range(len(source[0]))
    ]
    lengths = [_joint([part @ part.mT for part in parts]).clamp_min(0).sqrt() for parts in (target, source)]
    return torch.stack(dots, dim=1) / torch.outer(*lengths).clamp_min(1e-30)


def _joint(products: list[Tensor]) -> Tensor:
    query, key, value, output = products
    return (query * key + value * output).sum((-2, -1))


def _by_group(matched: Tensor, source: Heads, target: Heads) -> Tensor:
    """Returns how much of each old key head goes into each new one: the mean over the new group's query heads."""
    share = target.queries // target.keys
    return matched.reshape(target.keys, share, source.keys, -1).sum((1, 3)) / share


def _blocks(coupling: Tensor, there: Tensor, here: Tensor) -> Operator:
    """Returns the map with block coupling[j, i] * there[j] @ here[i] wherever two heads are coupled."""
    new, old = coupling.nonzero(as_tuple=True)
    blocks = coupling[new, old][:, None, None] * (there[new] @ here[old])
    return Blocks(blocks.float(), new.int(), old.int(), torch.tensor(coupling.shape, dtype=torch.int32))


def _product(left: Tensor, right: Tensor) -> Operator:
    return cheaper(left.float(), right.float())


def _dense(matrix: Tensor) -> Operator:
    return Dense(matrix.float().contiguous())


METHOD = Method(
    name="lorasuite",
    summary="language models only: embeddings, matched heads and feed-forward weights of both bases map the update",
    reference="LoRASuite, arXiv 2505.13515, eq. 3 and algorithm 2, without its fine-tuning",
    needs="weights",
    compile_site=compile_site,
    settings={"heads": "printed", "norm_match": False},
    gives_back={"heads": "inverse"},
    for_bases="language-models",
)
