from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

from lorax.errors import Stop
from tasks.encoders import encoder_folder


def test_a_folder_of_this_machine_is_taken_as_it_is() -> None:
    assert encoder_folder("encoders/dinov2") == Path("encoders/dinov2")


def test_a_name_on_the_hub_is_fetched_at_its_revision_without_any_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def fetch(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)

    assert encoder_folder("hub:facebook/dinov2-small@ed25f3a") == tmp_path
    assert asked == [("facebook/dinov2-small", "ed25f3a", ["*.safetensors", "*.json", "*.txt", "*.model"])]


@pytest.mark.parametrize("path", ["hub:facebook/dinov2-small", "hub:dinov2@main", "hub:a/b@", "hub:a/b/c@main", "hub:"])
def test_a_name_without_its_owner_or_revision_stops(path: str) -> None:
    with pytest.raises(Stop, match="is written hub:owner/name@revision"):
        encoder_folder(path)


@pytest.mark.parametrize("problem", [OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, ValueError])
def test_what_cannot_be_fetched_stops_with_what_to_do(
    problem: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_settings: object) -> str:
        raise problem("no way out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)

    with pytest.raises(Stop, match=r"hub:owner/name@main: .*no way out.*Fetch it where there is a network"):
        encoder_folder("hub:owner/name@main")


def test_every_refusal_of_the_hub_is_one_of_these() -> None:
    assert issubclass(RevisionNotFoundError, OSError)


def test_nothing_is_fetched_where_the_hub_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(Stop, match="neither in the Hub's cache here nor can it be fetched"):
        encoder_folder("hub:owner/name@main")
