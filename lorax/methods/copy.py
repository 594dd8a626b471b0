"""copy: the update as it is. The baseline to beat, and hard to beat between checkpoints of one lineage."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.operators import Identity


def compile_site(site: SiteInputs, _settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns identities where shapes agree."""
    return Term(Identity(), Identity()) if site.same_shape else NoTerm("shape-differs")


METHOD = Method(
    name="copy",
    summary="the update unchanged, as renaming the file would do",
    reference="baseline; measured against in arXiv 2608.20918",
    needs="shapes",
    compile_site=compile_site,
    gives_back={},
)
