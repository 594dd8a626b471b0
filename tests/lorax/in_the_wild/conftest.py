from __future__ import annotations

from pathlib import Path

import pytest

from tests.lorax.in_the_wild.wild import Wild


@pytest.fixture
def wild(tmp_path: Path) -> Wild:
    """Returns what writes files as other tools do and reads them with lorax."""
    return Wild(tmp_path)
