"""Every file of the example's catalogue is read whole, or refused for the reason it was put there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.checkpoint import open_checkpoint
from lorax.errors import Refused
from lorax.read import AdapterFiles, read_adapter

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
REFUSED = {
    "truncated.safetensors": "truncated",
    "all_nan.safetensors": "non-finite",
    "old_pickle.pt": "pickle",
    "download_page.safetensors": "html-page",
    "mystery.safetensors": "base-undecided",
}
WEIGHTS = {".safetensors", ".pt", ".bin", ".ckpt"}
LABELS = ("Digits v1", "lorax-examples/digits-v1")


def files_of(path: Path) -> list[AdapterFiles]:
    """Gives the adapter of a catalogue's file or folder, none for a sidecar."""
    if path.is_file():
        return [AdapterFiles(path, name=path.name)] if path.suffix in WEIGHTS else []
    config = path / "adapter_config.json"
    return [
        AdapterFiles(weights, config if config.is_file() else None, path.name) for weights in path.glob("*.safetensors")
    ]


CATALOGUE = [files for path in sorted((DIGITS / "catalogue").glob("[!.]*")) for files in files_of(path)]
pytestmark = pytest.mark.skipif(len(CATALOGUE) < 20, reason="the example has not been made here")


@pytest.fixture(scope="module")
def bases() -> list[BaseModel]:
    folders = [path.parents[1] for path in sorted((DIGITS / "bases").glob("*/unet/config.json"))]
    labels = {"digits-v1": LABELS}
    opened = [open_checkpoint(folder, name=folder.name, labels=labels.get(folder.name, ())).base for folder in folders]
    return [*opened, *known_bases()]


@pytest.mark.parametrize("files", CATALOGUE, ids=lambda files: files.name)
def test_a_file_is_read_whole_or_refused_for_its_reason(files: AdapterFiles, bases: list[BaseModel]) -> None:
    expected = REFUSED.get(files.name)
    if expected is not None:
        with pytest.raises(Refused) as raised:
            read_adapter(files, candidates=bases)
        assert raised.value.reason == expected
        return

    genuine = files.name == "pokemon_sd15.safetensors"
    adapter = read_adapter(files, candidates=bases, labels=() if genuine else LABELS[:1])

    assert adapter.base.name == ("sd1.5" if genuine else "digits-v1")
    assert adapter.unmappable == ()
    assert adapter.norm() > 1
    assert "/" not in "".join(adapter.trigger_words)
    assert not any("D:" in value for value in adapter.metadata.values())


def test_bases_of_one_shape_differ_by_their_content(bases: list[BaseModel]) -> None:
    at_hand = [base for base in bases if base.fingerprint]

    assert len({base.fingerprint for base in at_hand}) == len(at_hand) >= 3
