"""What every family of base models keeps: inventories without a clash in any dialect, and the stated size."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from lorax.base_model import BaseModel, Family
from lorax.base_models import FAMILIES, known_bases
from lorax.dialect import Dialect
from lorax.dialects import DIALECTS
from lorax.identify import alias_table, normalised
from tests.stand_ins.adapter_files import small_base

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
every_base = pytest.mark.parametrize("base", [*known_bases(), small_base()], ids=lambda base: base.name)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


@every_base
@every_dialect
def test_no_two_sites_share_a_spelling(base: BaseModel, dialect: Dialect) -> None:
    spellings = [(spelling, site) for site in base.sites for spelling in set(dialect.spellings(site))]

    assert len(alias_table(base, dialect)) == len(spellings)
    assert {site for _, site in spellings} == base.sites.keys()


@every_family
def test_the_shapes_multiply_to_the_stated_number_of_parameters(family: Family) -> None:
    assert {base.version for base in family.versions} == family.parameters.keys()
    for base in family.versions:
        total = sum(prod(shape.weight_shape) for shape in base.sites.values())
        assert total == family.parameters[base.version]


@every_family
def test_versions_are_told_apart_by_name_and_by_inventory(family: Family) -> None:
    names = [base.name for base in family.versions]

    assert len(set(names)) == len(names)
    assert all(base.family == family.name for base in family.versions)
    for index, base in enumerate(family.versions):
        assert all(base.sites != other.sites for other in family.versions[:index])
        assert base.version in family.spoken


def test_no_label_names_two_known_bases() -> None:
    owners = [
        (label, base.name) for base in known_bases() for label in {normalised(x) for x in (base.name, *base.labels)}
    ]

    assert len({label for label, _ in owners}) == len(owners)
    assert all(label for label, _ in owners)


@every_family
def test_paths_are_canonical_once_and_for_all(family: Family) -> None:
    for base in family.versions:
        for site in base.sites:
            assert family.canonical(site.component, site.path) == site.path
            assert site.path.rpartition(".")[2] not in family.not_sites


@every_family
def test_a_folder_of_something_else_is_not_recognised(family: Family, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert not family.recognises(tmp_path)
    assert not family.recognises(tmp_path / "missing")
