"""forecast: how much of the effect the plan expected to carry, before it saw any adapter.

Where a method judged its operators on rows of the probe held out (`auto`), each site has the cosine of the first-order
effects of an update, at home and in the target. Its square, with its sign, is the share of the effect's variance that
the best strength would explain. A plan is the same for all adapters: only the weights of the mean are the adapter's.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.plan import PlannedSite
from lorax.weight_scorer import WeightCase, WeightScorer

_AGREEMENT, _CHOSEN = "agreement_", "chosen_"


def measure(case: WeightCase) -> float | None:
    """Returns the mean over the adapter's sites that have a home, weighted by squared norms; 0 for a site left out.

    None without a plan, and for methods that make no forecast.
    """
    if case.plan is None:
        return None
    planned = [site for site in case.plan.sites if site.source in case.before]
    found = {site.target: _agreement(site) for site in planned}
    total = sum(case.before[site.source] for site in planned if site.source is not None)
    if not total or all(agreement is None for agreement in found.values()):
        return None
    shares = ((case.before[site.source], found[site.target] or 0.0) for site in planned if site.source is not None)
    return sum(weight * agreement * abs(agreement) for weight, agreement in shares) / total


def _agreement(site: PlannedSite) -> float | None:
    """The agreement of the candidate that was chosen for a site."""
    figures: Mapping[str, float] = site.term.figures if site.term is not None else {}
    chosen = (name.removeprefix(_CHOSEN) for name, value in figures.items() if name.startswith(_CHOSEN) and value)
    return next((figures[_AGREEMENT + name] for name in chosen if _AGREEMENT + name in figures), None)


WEIGHT_SCORER = WeightScorer(
    name="forecast",
    summary="share of the effect that the plan expected to carry, R² on a held-out part of its probe",
    reference="own; first-order effects as in calibrated",
    higher_is_better=True,
    measure=measure,
)
