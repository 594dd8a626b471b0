"""zero (control): no update anywhere. Doing nothing is what every method has to beat."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.method import Method, NoTerm, Setting, SiteInputs, Term


def compile_site(_site: SiteInputs, _settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns no term."""
    return NoTerm("zero-control")


METHOD = Method(
    name="zero",
    summary="control: no update, the target base itself",
    reference="control",
    needs="shapes",
    compile_site=compile_site,
    is_control=True,
)
