"""Pieces that diffusion transformers share, by formula, in the names of diffusers."""

from __future__ import annotations

from lorax.inventory import Parameter, Parameters, linear


def two_layers(path: str, width: int, inputs: int) -> Parameters:
    """Lists the parameters of an embedding of two linear layers (TimestepEmbedding, PixArtAlphaTextProjection)."""
    yield from linear(f"{path}.linear_1", width, inputs)
    yield from linear(f"{path}.linear_2", width, width)


def feed_forward(path: str, width: int, inner: int) -> Parameters:
    """Lists the parameters of a feed-forward part without a gate."""
    yield from linear(f"{path}.net.0.proj", inner, width)
    yield from linear(f"{path}.net.2", width, inner)


def projections(path: str, width: int, inputs: int | None = None) -> Parameters:
    """Lists query, key, value and output of an attention; inputs: width of what key and value see, if another."""
    yield from linear(f"{path}.to_q", width, width)
    for part in ("to_k", "to_v"):
        yield from linear(f"{path}.{part}", width, inputs or width)
    yield from linear(f"{path}.to_out.0", width, width)


def heads_norm(path: str, width: int, *, added: bool = False) -> Parameters:
    """Lists the normalisations of query and key; added: those of the text's query and key."""
    for part in ("norm_added_q", "norm_added_k") if added else ("norm_q", "norm_k"):
        yield Parameter(f"{path}.{part}.weight", (width,))


def joint_attention(path: str, width: int, *, head: int | None, last: bool = False) -> Parameters:
    """Lists the parameters of an attention over image and text together.

    head: width of a head whose query and key are normalised, None without; last: no output for the text.
    """
    yield from projections(path, width)
    for part in ("add_q_proj", "add_k_proj", "add_v_proj"):
        yield from linear(f"{path}.{part}", width, width)
    if not last:
        yield from linear(f"{path}.to_add_out", width, width)
    if head is not None:
        yield from heads_norm(path, head)
        yield from heads_norm(path, head, added=True)


def joint_block(path: str, width: int, *, head: int | None) -> Parameters:
    """Lists the parameters of a block that modulates image and text, joins their attention and feeds both forward."""
    yield from linear(f"{path}.norm1.linear", 6 * width, width)
    yield from linear(f"{path}.norm1_context.linear", 6 * width, width)
    yield from joint_attention(f"{path}.attn", width, head=head)
    yield from feed_forward(f"{path}.ff", width, 4 * width)
    yield from feed_forward(f"{path}.ff_context", width, 4 * width)


def single_block(path: str, width: int, *, head: int) -> Parameters:
    """Lists the parameters of a block in which attention and feed-forward part run side by side."""
    yield from linear(f"{path}.norm.linear", 3 * width, width)
    for part in ("to_q", "to_k", "to_v"):
        yield from linear(f"{path}.attn.{part}", width, width)
    yield from heads_norm(f"{path}.attn", head)
    yield from linear(f"{path}.proj_mlp", 4 * width, width)
    yield from linear(f"{path}.proj_out", width, 5 * width)
