"""A lock holds plain pins, and nothing that belongs to one machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_lock", repository / "scripts" / "make_lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_platform_packages_and_local_versions_are_left_out(script: ModuleType) -> None:
    freeze = "zipp==4.1\ntorch==2.13.0+cpu\nnvidia-cublas-cu12==12.8\ntriton==3.5\npip==23.2\nAltair==6.3\n"
    assert script.lock_lines(freeze) == ["Altair==6.3", "torch==2.13.0", "zipp==4.1"]


@pytest.mark.parametrize("line", ["torch@file:///wheels/torch.whl", "-e git+ssh://x/y", "name>=1"])
def test_a_line_that_is_no_pin_is_refused(script: ModuleType, line: str) -> None:
    with pytest.raises(SystemExit, match="name==version"):
        script.lock_lines(f"zipp==4.1\n{line}\n")
