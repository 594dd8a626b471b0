from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalogs.plug_ins import collect


@dataclass(frozen=True)
class Thing:
    name: str


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package `things_<something>` whose modules the test writes."""
    folder = tmp_path / f"things_{abs(hash(tmp_path))}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "thing_kind", sys.modules[__name__])
    return folder


def declare(package: Path, module: str, text: str) -> None:
    (package / f"{module}.py").write_text(f"from thing_kind import Thing\n{text}\n")


def test_each_module_of_a_folder_enrols_by_itself_in_the_order_of_names(package: Path) -> None:
    declare(package, "b", "THING = Thing('second')")
    declare(package, "a", "THING = Thing('zlast')")
    declare(package, "c", "THING = Thing('first')")

    assert list(collect(package.name, "THING", Thing)) == ["first", "second", "zlast"]


def test_a_module_with_a_leading_underscore_is_no_plug_in(package: Path) -> None:
    declare(package, "a", "THING = Thing('a')")
    declare(package, "_shared", "raise AssertionError('imported')")

    assert list(collect(package.name, "THING", Thing)) == ["a"]


def test_two_plug_ins_of_one_name_are_refused_naming_both(package: Path) -> None:
    declare(package, "a", "THING = Thing('same')")
    declare(package, "b", "THING = Thing('same')")

    with pytest.raises(TypeError, match=r"\.b and .*\.a both declare THING named 'same'"):
        collect(package.name, "THING", Thing)


@pytest.mark.parametrize("text", ["", "THING = 'a name'"])
def test_a_module_that_declares_no_plug_in_is_refused(package: Path, text: str) -> None:
    declare(package, "a", text)

    with pytest.raises(TypeError, match="has to declare THING as a Thing"):
        collect(package.name, "THING", Thing)
