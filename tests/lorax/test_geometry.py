from __future__ import annotations

import torch

from lorax.geometry import LOG_PROBABILITIES, SQUARED


def log_probabilities(seed: int) -> torch.Tensor:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.log_softmax(1)


def test_the_divergence_of_log_probabilities_is_torchs_kl() -> None:
    wanted, found = log_probabilities(0), log_probabilities(1)
    theirs = torch.nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1)

    assert torch.allclose(LOG_PROBABILITIES.divergence(wanted, found), theirs)
    assert torch.allclose(LOG_PROBABILITIES.divergence(wanted, wanted), torch.zeros(5, dtype=torch.float64))


def test_the_inner_product_of_changes_is_half_of_what_the_divergence_grows_by() -> None:
    """KL(p || p + e) = 1/2 <e, e>_p to second order, whatever is added to all of a row alike."""
    at = log_probabilities(0)
    change = 1e-4 * torch.randn(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = (at + change).log_softmax(1)

    product = LOG_PROBABILITIES.inner(at, change, change)

    assert torch.allclose(LOG_PROBABILITIES.divergence(at, moved), product / 2, rtol=1e-2)
    assert torch.allclose(LOG_PROBABILITIES.inner(at, change + 3.0, change - 1.0), product)


def test_the_size_of_log_probabilities_is_their_entropy() -> None:
    at = log_probabilities(0)
    assert torch.allclose(LOG_PROBABILITIES.size(at), torch.distributions.Categorical(logits=at).entropy())


def test_noise_is_measured_in_squares() -> None:
    first, second = torch.ones(2, 3), torch.zeros(2, 3)

    assert SQUARED.divergence(first, second).tolist() == [3.0, 3.0]
    assert SQUARED.inner(first, 2 * first, first).tolist() == [6.0, 6.0]
    assert SQUARED.size(2 * first).tolist() == [12.0, 12.0]
