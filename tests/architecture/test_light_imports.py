"""What loads what: the libraries do without Prefect, and a weight file's header can be read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import REPOSITORY


def run_with_blocked(*modules: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter in which importing any of the modules fails."""
    block = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code], cwd=REPOSITORY, capture_output=True, check=False, text=True
    )


@pytest.mark.parametrize(
    ("blocked", "code"),
    [
        (("prefect",), "import lorax, catalogs"),
        (("torch",), "import lorax.weight_file, lorax.errors, lorax.safe_header"),
        (("torch",), "import catalogs.ledger, catalogs.policy, catalogs.trace, catalogs.queries"),
        (("diffusers", "transformers"), "import lorax.plan, lorax.read, lorax.score, lorax.diffusion_model"),
        (("duckdb", "pandas", "requests", "huggingface_hub"), "import lorax.plan, lorax.read, lorax.write"),
    ],
    ids=[
        "the libraries without Prefect",
        "headers without torch",
        "the ledger without torch",
        "plans without the model loaders",
        "transfers without network and database",
    ],
)
def test_it_imports(blocked: tuple[str, ...], code: str) -> None:
    run = run_with_blocked(*blocked, code=code)
    assert run.returncode == 0, run.stderr


def test_the_block_is_real() -> None:
    assert run_with_blocked("torch", code="import torch").returncode == 1
