from __future__ import annotations

import json

import pytest

from lorax.metadata import carried, dataset_words, holds_path, trigger_words


@pytest.mark.parametrize(
    "text",
    [
        "D:/users/someone/loras",
        r"C:\Users\someone\x.safetensors",
        r"\\server\share\x",
        "/home/someone/models/x.ckpt",
        "saved from /mnt/data",
        '{"path": "/data/x"}',
        "~/loras/x",
        "../outputs/run",
        "./x/y",
        "file:///tmp/x",
    ],
)
def test_paths_are_recognised(text: str) -> None:
    assert holds_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bold style",
        "https://civitai.example/models/4",
        "stable-diffusion-v1/lora",
        "16/9 and 4/3",
        r"smart falcon \(umamusume\)",
        "(16, 16)",
        "torch.optim.adamw.AdamW(weight_decay=0.01)",
        "either / or",
        "note: see below",
    ],
)
def test_other_words_are_no_paths(text: str) -> None:
    assert not holds_path(text)


def test_only_what_is_on_the_list_is_carried() -> None:
    metadata = {
        "ss_output_name": "bold",
        "modelspec.title": "Bold digits",
        "modelspec.license": "cc0-1.0",
        "ss_dataset_dirs": '{"1_bold": {"img_count": 4}}',
        "modelspec.thumbnail": "data:image/jpeg;base64,AAAA",
        "modelspec.hash_sha256": "0xabc",
        "sshs_model_hash": "abc",
        "ss_session_id": "12345",
        "unheard_of": "x",
    }

    assert carried(metadata) == {
        "ss_output_name": "bold",
        "modelspec.title": "Bold digits",
        "modelspec.license": "cc0-1.0",
    }


def test_values_with_paths_or_of_great_length_are_not_carried() -> None:
    metadata = {
        "ss_training_comment": "saved from D:/users/someone",
        "ss_sd_model_name": "/home/someone/base.safetensors",
        "modelspec.description": "x" * 100_000,
        "ss_network_dim": "8",
    }

    assert carried(metadata) == {"ss_network_dim": "8"}


def test_tag_statistics_shrink_to_the_trigger_without_folder_names() -> None:
    frequency = {"16_private name": {"bold style": 40, "seven": 4}, "4_other": {"bold style": 10, "two": 9}}

    kept = carried({"ss_tag_frequency": json.dumps(frequency)})

    assert json.loads(kept["ss_tag_frequency"]) == {"triggers": {"bold style": 50}}
    assert "private" not in str(kept)


def test_trigger_words_are_the_authors_own_or_the_leading_tags() -> None:
    frequency = json.dumps({"1_x": {"bold style": 40, "hair bow": 40, "seven": 4}})

    assert trigger_words({"modelspec.trigger_phrase": "bold, thick lines", "ss_tag_frequency": frequency}) == (
        "bold",
        "thick lines",
    )
    assert trigger_words({"ss_tag_frequency": frequency}) == ("bold style",)
    assert trigger_words({}) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": 1}', '{"a": {"b": "c"}}', '{"a": {}}', "[" * 100_000, '{"a": {"\\n": 4}}'],
    ids=range(9),
)  # fmt: skip
def test_tag_statistics_of_any_form_do_no_harm(text: str) -> None:
    assert carried({"ss_tag_frequency": text}) == {}
    assert trigger_words({"ss_tag_frequency": text}) == ()
    assert dataset_words({"ss_tag_frequency": text}) == ()


def test_the_words_of_a_training_set_come_by_how_often_they_occur_in_all_folders() -> None:
    frequency = {
        "16_private name": {"bold": 40, " rain ": 4, "sea": 9},
        "4_x": {"rain": 6, "owl": 9, "x": -1, "y": True},
    }

    assert dataset_words({"ss_tag_frequency": json.dumps(frequency)}) == ("bold", "rain", "owl", "sea")
    assert dataset_words({}) == ()


def test_of_a_training_set_few_words_are_given_and_none_that_is_a_path_or_without_end() -> None:
    tags = {f"tag {number:03d}": 1000 - number for number in range(100)}
    frequency = {"1_x": {"/home/someone/pictures": 5000, "word " * 100: 4000, "": 3000, **tags}}

    assert dataset_words({"ss_tag_frequency": json.dumps(frequency)}) == tuple(tags)[:32]
