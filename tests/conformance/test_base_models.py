"""What every family of base models keeps: inventories without a clash in any dialect, and the stated size."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from pathlib import Path

import pytest

from lorax.adapter import Site
from lorax.base_model import BaseModel, Family
from lorax.base_models import FAMILIES, known_bases
from lorax.dialect import Dialect
from lorax.dialects import DIALECTS
from lorax.identify import alias_table, normalised
from lorax.naming import Part
from tests.stand_ins.adapter_files import small_base

COMPLETE = {"comfyui", "diffusers", "kohya", "lycoris", "musubi", "peft"}
"""Dialects that have a word for every site of a component if they have one for any."""

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
every_base = pytest.mark.parametrize("base", [*known_bases(), small_base()], ids=lambda base: base.name)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


@every_dialect
@every_base
def test_no_two_modules_share_a_spelling_and_what_is_written_names_every_site(
    base: BaseModel, dialect: Dialect
) -> None:
    owners: dict[str, tuple[Part, ...]] = {}

    for spelling, module in dialect.modules(base):
        assert owners.setdefault(spelling, module.parts) == module.parts, spelling

    assert owners.keys() == alias_table(base, dialect).keys()
    if dialect.name in COMPLETE:
        named = {part.site for parts in owners.values() for part in parts}
        components = {site.component for site in named}
        assert {site for site in base.sites if site.component in components} <= named


@every_base
def test_the_parts_of_a_fused_module_fill_it_without_overlap(base: BaseModel) -> None:
    family = FAMILIES[base.family]
    for naming in (*family.namings.values(), *family.program_namings.values()):
        for module in naming(base):
            if len(module.parts) == 1 or module.experts or module.shape is None:
                continue
            rows = sorted(part.rows or (0, 0) for part in module.parts)
            assert rows[0][0] == 0
            assert rows[-1][1] == module.shape.out_features
            assert all(one[1] == other[0] for one, other in pairwise(rows))
            for part in module.parts:
                begin, end = part.rows or (0, 0)
                own = base.sites[part.site]
                assert (own.out_features, own.in_features) == (end - begin, module.shape.in_features)


@every_family
def test_the_parameters_add_up_to_the_stated_number(family: Family) -> None:
    versions = family.versions()

    assert {base.version for base in versions} == family.parameters.keys()
    for base in versions:
        assert base.parameters == family.parameters[base.version]
        weights = sum(prod(shape.weight_shape) for shape in (*base.sites.values(), *base.tables.values()))
        assert weights + sum(base.vectors.values()) <= base.parameters
        assert weights > 0.9 * base.parameters


@every_family
def test_versions_are_told_apart_by_name_and_have_words_of_other_programs(family: Family) -> None:
    versions = family.versions()
    names = [base.name for base in versions]

    assert family.versions() is versions
    assert len(set(names)) == len(names)
    assert all(base.family == family.name for base in versions)
    assert all(base.version in family.spoken for base in versions)


@every_family
def test_versions_of_equal_shape_are_declared_so(family: Family) -> None:
    versions = family.versions()
    groups = family.equal_architectures

    for index, base in enumerate(versions):
        for other in versions[:index]:
            if base.sites == other.sites:
                assert any({base.version, other.version} <= group for group in groups), (base.name, other.name)
    assert all(group <= {base.version for base in versions} for group in groups)
    assert all({*pair} <= {base.version for base in versions} for pair in family.variants.items())


def test_no_label_names_two_known_bases() -> None:
    owners = [
        (label, base.name) for base in known_bases() for label in {normalised(x) for x in (base.name, *base.labels)}
    ]

    assert len({label for label, _ in owners}) == len(owners)
    assert all(label for label, _ in owners)


@every_family
def test_paths_are_canonical_once_and_for_all(family: Family) -> None:
    for base in family.versions():
        for site in (*base.sites, *base.tables, *base.vectors):
            assert family.canonical(site.component, site.path) == site.path
        assert not any(site.path.rpartition(".")[2] in family.not_sites for site in base.sites)


@every_family
def test_every_prefix_of_flat_names_is_of_a_component_that_exists(family: Family) -> None:
    components = {site.component for base in family.versions() for site in base.sites}

    assert family.flat_prefixes.keys() <= components
    assert all(prefixes for prefixes in family.flat_prefixes.values())


@every_family
def test_a_folder_of_something_else_is_not_recognised(family: Family, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert not family.recognises(tmp_path)
    assert not family.recognises(tmp_path / "missing")


def test_a_site_can_be_read_back_from_what_it_is_called() -> None:
    for base in known_bases():
        assert all(Site.parse(str(site)) == site for site in base.sites)
