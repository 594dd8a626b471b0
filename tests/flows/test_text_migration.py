"""The whole flow on two language models: no pictures, peft's folders, a card that says how to load them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from catalogs.ledger import open_reader
from lorax.checkpoint import open_checkpoint
from lorax.write import write_adapter
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import make_text_base, nudged_text_base

pytestmark = pytest.mark.usefixtures("prefect_server")

SETTINGS = """
name = "letters"
[catalogue]
path = "catalogue"
[bases.letters-v1]
path = "bases/letters-v1"
labels = ["someone/letters-v1"]
[bases.letters-v2]
path = "bases/letters-v2"
labels = ["someone/letters-v2"]
[[pairs]]
source = "letters-v1"
target = "letters-v2"
method = "calibrated"
[score]
samples = 8
length = 12
[gate]
divergence_gain = -9.0
margin_over_random = -9.0
allowed_under_copy = 9.0
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """Returns the data folder of a migration of one adapter."""
    from flows.migrate import migrate

    folder = tmp_path_factory.mktemp("letters")
    source = make_text_base(folder / "bases" / "letters-v1", seed=1)
    nudged_text_base(source, folder / "bases" / "letters-v2", seed=2)
    base = dataclasses.replace(open_checkpoint(source, name="letters-v1").base, labels=("someone/letters-v1",))
    adapter = dataclasses.replace(make_adapter(base, match="attn", strength=2.0), dtype=torch.float32)
    write_adapter(adapter, folder / "catalogue" / "loud", dialect="peft", base=base, stem="loud", metadata={})
    card = yaml.safe_dump({"license": "apache-2.0", "base_model": "someone/letters-v1"})
    (folder / "catalogue" / "loud" / "README.md").write_text(f"---\n{card}---\n# Loud\n")
    (folder / "migration.toml").write_text(SETTINGS)
    migrate(migration=folder / "migration.toml", data=folder / "data")
    return folder / "data"


def test_an_adapter_of_a_language_model_is_scored_and_published(published: Path) -> None:
    reader = open_reader(published)
    (row,) = reader.rows("SELECT state, reason FROM states")
    (scored,) = reader.rows("SELECT body FROM event WHERE kind = 'scored'")
    body = json.loads(str(scored["body"]))

    assert (row["state"], row["reason"]) == ("published", "gate-passed")
    assert "images" not in body
    assert (
        body["figures"]["converted"]["divergence_gain"]["value"] > body["figures"]["random"]["divergence_gain"]["value"]
    )


# Between the two libraries, not ours to mend.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_release_opens_in_peft_and_its_card_says_how(published: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (release,) = (path for path in (published / "hub").iterdir() if (path / "adapter_config.json").is_file())
    card = (release / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(published.parent / "bases" / "letters-v2")
    opened = PeftModel.from_pretrained(base, str(release))

    assert json.loads((release / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    assert "AutoModelForCausalLM" in card
    assert "diffusers" not in card
    assert type(opened).__name__ == "PeftModelForCausalLM"
    assert not list(release.glob("*.png"))


def test_the_report_of_a_run_without_pictures_has_no_gallery(published: Path) -> None:
    (report,) = (path for path in (published / "reports").glob("*.html") if path.name != "latest.html")

    text = report.read_text()
    assert "loud" in text
    assert "data:image/png" not in text
