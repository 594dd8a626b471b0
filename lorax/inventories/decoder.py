"""Decoder-only language models by formula, in the names that checkpoints of transformers use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lorax.base_model import BaseModel
from lorax.inventory import Parameter, Parameters, linear, norm, owners, table
from lorax.naming import NamedModule, Naming, Part

COMPONENT = "model"
TABLES = frozenset({"embed_tokens"})
"""Last parts of the paths of the lookup tables."""
_STEM = "model."
_NESTED = ("model.language_model.", "language_model.model.")


@dataclass(frozen=True, slots=True)
class Decoder:
    """Describes a decoder-only language model from which its whole inventory follows.

    queries, keys: rows of the query and of the key projection, all heads together; inner: width inside the feed-forward
    part; vocab: entries of the token table; tied: the head shares the weight of the token table, so that checkpoints
    have none; biases: linear layers with a bias, by the last part of their path; head_norm: width of a normalised head,
    0 where queries and keys are not normalised; norms: normalisations of a layer; norm_bias: they have a bias;
    final: last part of the path of the last normalisation; output: that of the output projection; fused: query, key and
    value lie in one weight, and so do gate and up; plain: the feed-forward part is fc1, fc2 without a gate;
    experts, expert_inner: number and inner width of the experts in the layers that have them, has_experts(layer).
    """

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocab: int
    tied: bool = False
    biases: frozenset[str] = frozenset()
    head_norm: int = 0
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    final: str = "norm"
    output: str = "o_proj"
    fused: bool = False
    plain: bool = False
    experts: int = 0
    expert_inner: int = 0
    has_experts: Callable[[int], bool] = lambda _layer: True

    def parameters(self) -> Parameters:
        """Lists all parameters; the experts of a layer are stacked, as transformers 5 and later hold them."""
        yield from table("model.embed_tokens", self.vocab, self.hidden)
        for layer in range(self.layers):
            path = f"model.layers.{layer}"
            yield from self._attention(f"{path}.self_attn")
            if self.experts and self.has_experts(layer):
                yield from self._experts(f"{path}.mlp")
            else:
                yield from self._feed_forward(f"{path}.mlp")
            for name in self.norms:
                yield from norm(f"{path}.{name}", self.hidden, bias=self.norm_bias)
        yield from norm(f"model.{self.final}", self.hidden, bias=self.norm_bias)
        if not self.tied:
            yield from self._linear("lm_head", self.vocab, self.hidden)

    def _linear(self, path: str, outputs: int, inputs: int) -> Parameters:
        return linear(path, outputs, inputs, bias=path.rpartition(".")[2] in self.biases)

    def _attention(self, path: str) -> Parameters:
        if self.fused:
            yield from self._linear(f"{path}.qkv_proj", self.queries + 2 * self.keys, self.hidden)
        else:
            yield from self._linear(f"{path}.q_proj", self.queries, self.hidden)
            yield from self._linear(f"{path}.k_proj", self.keys, self.hidden)
            yield from self._linear(f"{path}.v_proj", self.keys, self.hidden)
        yield from self._linear(f"{path}.{self.output}", self.hidden, self.queries)
        if self.head_norm:
            yield Parameter(f"{path}.q_norm.weight", (self.head_norm,))
            yield Parameter(f"{path}.k_norm.weight", (self.head_norm,))

    def _feed_forward(self, path: str) -> Parameters:
        if self.plain:
            yield from self._linear(f"{path}.fc1", self.inner, self.hidden)
            yield from self._linear(f"{path}.fc2", self.hidden, self.inner)
            return
        if self.fused:
            yield from self._linear(f"{path}.gate_up_proj", 2 * self.inner, self.hidden)
        else:
            yield from self._linear(f"{path}.gate_proj", self.inner, self.hidden)
            yield from self._linear(f"{path}.up_proj", self.inner, self.hidden)
        yield from self._linear(f"{path}.down_proj", self.hidden, self.inner)

    def _experts(self, path: str) -> Parameters:
        count, inner = self.experts, self.expert_inner
        yield Parameter(f"{path}.gate.weight", (count, self.hidden))
        yield Parameter(f"{path}.experts.gate_up_proj", (count, 2 * inner, self.hidden), experts=count)
        yield Parameter(f"{path}.experts.down_proj", (count, self.hidden, inner), experts=count)


def decoder_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules of a decoder by their canonical names, the experts of a layer as the stack that holds them."""
    stacks: dict[str, list[Part]] = {}
    for site, shape in base.sites.items():
        if site.path.endswith("]"):
            stacks.setdefault(site.path.rpartition("[")[0], []).append(Part(site))
        else:
            yield NamedModule(COMPONENT, site.path, (Part(site),), shape)
    for path, parts in stacks.items():
        yield NamedModule(COMPONENT, path, tuple(parts), base.sites[parts[0].site], experts=True)
    for site, shape in base.tables.items():
        yield NamedModule(COMPONENT, site.path, (Part(site),), shape)
    for site in owners(base.vectors):
        if site not in base.sites:
            yield NamedModule(COMPONENT, site.path, (Part(site),), None)


def nested_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules as they are called inside a vision-language model, before and after transformers 4.52."""
    for module in decoder_names(base):
        for stem in _NESTED:
            if module.path.startswith(_STEM):
                yield _called(module, stem + module.path.removeprefix(_STEM))
        if module.path == "lm_head":
            yield _called(module, "language_model.lm_head")


def headless_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules as the model without its head calls them (AutoModel): `layers.0…` without `model.`."""
    for module in decoder_names(base):
        if module.path.startswith(_STEM):
            yield _called(module, module.path.removeprefix(_STEM))


def _called(module: NamedModule, path: str) -> NamedModule:
    return NamedModule(module.component, path, module.parts, module.shape, module.experts)


DECODER_NAMINGS: dict[str, Naming] = {"own": decoder_names, "nested": nested_names, "headless": headless_names}
"""What code bases call the modules of a decoder."""
