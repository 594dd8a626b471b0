from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalogs.entry import Terms
from catalogs.ledger import Reader
from catalogs.model_card import escape_markdown, render_card
from catalogs.provenance import ConversionRecord, conversion_record
from tests.stand_ins.ledger_story import BOLD, FAINT, PLAN, conversion_id, digest


@pytest.fixture
def record(told: Reader) -> ConversionRecord:
    return conversion_record(told, conversion_id(BOLD))


def card(record: ConversionRecord, **changes: Any) -> str:
    values = {"title": "Bold", "base_model": "lorax-examples/digits-v2", "weights_name": "bold.safetensors"}
    return render_card(record, **{**values, **changes})


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    values: dict[str, Any] = yaml.safe_load(text.split("\n---\n", maxsplit=1)[0])
    return values


def test_the_front_matter_says_what_hubs_search_for(record: ConversionRecord) -> None:
    assert front_matter(card(record)) == {
        "base_model": "lorax-examples/digits-v2",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "license": "cc-by-4.0",
        "instance_prompt": "bold style",
        "tags": ["lora", "lorax-transferred", "lorax-method:calibrated"],
    }


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (None, {"license": "unknown"}),
        ("CreativeML-OpenRAIL-M", {"license": "creativeml-openrail-m"}),
        ("my own terms", {"license": "other", "license_name": "my own terms"}),
    ],
)
def test_a_licence_that_hubs_do_not_know_keeps_its_name(
    record: ConversionRecord, licence: str | None, expected: dict[str, str]
) -> None:
    entry = replace(record.entry, terms=Terms(licence=licence))
    values = front_matter(card(replace(record, entry=entry)))

    assert {key: value for key, value in values.items() if key.startswith("license")} == expected


def test_the_card_shows_scores_source_terms_and_how_to_use_it(record: ConversionRecord) -> None:
    text = card(record, preview_name="preview.png")

    assert "| this conversion | 0.910 (0.860 to 0.960) |" in text
    assert "| plain copy of the source weights | 0.810" in text
    assert "| |" in text
    assert "divergence gain |" in text
    assert "<https://civitai.com/models/7?modelVersionId=4>" in text
    assert digest(BOLD.entry_id) in text
    assert conversion_id(BOLD) in text
    assert PLAN[:16] in text
    assert "| Sites | 23 of 24 carried over |" in text
    assert 'load_lora_weights(".", weight_name="bold.safetensors")' in text
    assert "](preview.png)" in text
    assert "**passed**" in text
    assert "by somebody" in text


def test_peft_files_are_loaded_by_peft_from_their_folder(record: ConversionRecord) -> None:
    flat = card(record, library_name="peft", weights_name="adapter_model.safetensors")
    nested = card(record, library_name="peft", weights_name="unet/adapter_model.safetensors")

    assert 'PeftModel.from_pretrained(pipeline.unet, ".")' in flat
    assert 'PeftModel.from_pretrained(pipeline.unet, "unet")' in nested
    assert "load_lora_weights" not in nested
    assert front_matter(nested)["library_name"] == "peft"


def test_tables_are_whole_so_that_they_render(record: ConversionRecord) -> None:
    lines = card(record).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|---"):
            columns = line.count("|")
            assert lines[number - 1].count("|") == columns
            assert lines[number + 1].count("|") == columns
            assert lines[number + 1].startswith("| ")


def test_a_card_without_scores_preview_or_words_says_so_and_shows_no_empty_part(told: Reader) -> None:
    record = conversion_record(told, conversion_id(FAINT))
    entry = replace(record.entry, trigger_words=(), creator=None)
    text = card(replace(record, entry=entry, figures={}, passed=None, sites_total=None))

    assert "It was not scored." in text
    assert "Trigger words" not in text
    assert "![" not in text
    assert "Verdict" not in text
    assert "Sites" not in text
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize(
    ("terms", "shown"),
    [
        (Terms(licence="mit"), "not stated"),
        (Terms(allow_derivatives=True), "not granted"),
        (Terms(allow_derivatives=True, allow_commercial_use=("Image", "Sell")), "Image, Sell"),
    ],
)
def test_commercial_use_is_never_claimed_wider_than_stated(record: ConversionRecord, terms: Terms, shown: str) -> None:
    assert f"| Commercial use | {shown} |" in card(replace(record, entry=replace(record.entry, terms=terms)))


def test_the_same_record_gives_the_same_card(record: ConversionRecord) -> None:
    assert card(record) == card(record)


HOSTILE = [
    "---\nlicense: mit\n---",
    "<script>alert(1)</script>",
    "{{ 7*7 }} {% raw %}",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "a | b | c",
    "`code` ```\nfence",
    "# Heading\n- item\n> quote",
    "https://evil.example www.evil.example",
    "\u202egnp.exe\x1b[31m\x00",
    "x" * 100_000,
    "&lt;b&gt; &#x3c;",
    ": *anchor &alias !!python/object",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_changes_neither_the_yaml_nor_the_markup(record: ConversionRecord, text: str) -> None:
    entry = replace(
        record.entry, name=text, trigger_words=(text,), creator=text, origin=text, terms=Terms(licence=text)
    )
    hostile = card(replace(record, entry=entry, gate_reasons=(("code", text),)), title=text)
    plain = card(record)

    assert list(front_matter(hostile)) == [
        *("base_model", "base_model_relation", "library_name", "license", "license_name", "instance_prompt", "tags")
    ]
    body = hostile.split("\n---\n", 1)[1]
    assert "<script" not in body
    assert "<b>" not in body
    assert "49" not in re.findall(r"^# .*$", body, re.MULTILINE)[0]
    assert not re.search(r"(?<!\\)\]\(https?://evil", body)
    assert [line for line in body.splitlines() if line.startswith("#")][1:] == [
        line for line in plain.split("\n---\n", 1)[1].splitlines() if line.startswith("#")
    ][1:]
    assert body.count("```") == 2
    assert len(hostile) < 20_000
    assert "\x1b" not in hostile
    assert "\u202e" not in hostile


@given(st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_escaped_text_holds_no_live_markup(text: str) -> None:
    escaped = escape_markdown(text)

    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[`*_\[\]<>|#]", escaped)
    assert not re.search(r"&(?!amp;|lt;|gt;)", escaped)
