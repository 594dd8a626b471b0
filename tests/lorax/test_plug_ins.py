from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorax.plug_ins import collect


@dataclass(frozen=True)
class Plug:
    name: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives an importable package folder that nobody has imported yet."""
    package = tmp_path / f"plugs_{tmp_path.name}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_shared.py").write_text("raise RuntimeError('a module with an underscore is not a plug-in')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "plug_kind", sys.modules[__name__])
    return package


def declare(folder: Path, module: str, text: str) -> None:
    (folder / f"{module}.py").write_text(f"from plug_kind import Plug\n{text}\n")


def test_every_module_of_the_folder_enrols_itself_sorted_by_name(folder: Path) -> None:
    declare(folder, "second", "PLUG = Plug('alpha')")
    declare(folder, "first", "PLUG = Plug('omega')")

    assert list(collect(folder.name, "PLUG", Plug).items()) == [("alpha", Plug("alpha")), ("omega", Plug("omega"))]


def test_two_plug_ins_of_one_name_are_refused(folder: Path) -> None:
    declare(folder, "first", "PLUG = Plug('same')")
    declare(folder, "second", "PLUG = Plug('same')")

    with pytest.raises(ValueError, match="'same'"):
        collect(folder.name, "PLUG", Plug)


@pytest.mark.parametrize("text", ["", "PLUG = 'a string'"])
def test_a_module_that_declares_nothing_usable_is_refused(folder: Path, text: str) -> None:
    declare(folder, "empty", text)

    with pytest.raises(TypeError, match="has to declare PLUG"):
        collect(folder.name, "PLUG", Plug)
