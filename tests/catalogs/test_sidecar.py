from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.sidecar import Facts, clean, facts_of_card, facts_of_json, merge, read_sidecar

VERSION: dict[str, Any] = {
    "id": 242807,
    "modelId": 215485,
    "name": "v1-128dim",
    "baseModel": "SDXL Turbo",
    "trainedWords": ["fast style", " fast style, "],
    "model": {"name": "Faster than light", "type": "LORA", "nsfw": False, "poi": False},
    "files": [
        {"name": "other.safetensors", "hashes": {"SHA256": "B" * 64}},
        {"name": "turbo.safetensors", "hashes": {"SHA256": "A" * 64}, "primary": True},
    ],
    "images": [{"url": "x", "meta": {"prompt": "a fast car"}}, {"url": "y"}, None],
}
MODEL: dict[str, Any] = {
    "id": 7984,
    "name": "Figma Anime Figures",
    "poi": False,
    "allowNoCredit": True,
    "allowCommercialUse": [],
    "allowDerivatives": True,
    "allowDifferentLicense": False,
    "type": "LORA",
    "creator": {"username": "robowaifudev"},
    "modelVersions": [
        {"id": 2, "baseModel": "SDXL 1.0", "files": [{"name": "new.safetensors"}], "trainedWords": ["new"]},
        {"id": 9413, "baseModel": "SD 1.5", "files": [{"name": "figma.safetensors"}], "trainedWords": ["figma"]},
    ],
}


def test_a_version_as_civitai_helper_keeps_it_is_understood() -> None:
    facts = facts_of_json(VERSION, weights_name="turbo.safetensors")

    assert facts.name == "Faster than light"
    assert facts.base_label == "SDXL Turbo"
    assert facts.kind == "lora"
    assert facts.trigger_words == ("fast style",)
    assert facts.prompts == ("a fast car",)
    assert facts.sha256 == "a" * 64
    assert facts.origin == "https://civitai.com/models/215485?modelVersionId=242807"
    assert facts.allow_derivatives is None


def test_a_whole_model_gives_its_permissions_and_the_version_that_holds_this_file() -> None:
    facts = facts_of_json(MODEL, weights_name="figma.safetensors")

    assert (facts.name, facts.creator, facts.base_label) == ("Figma Anime Figures", "robowaifudev", "SD 1.5")
    assert (facts.allow_derivatives, facts.allow_no_credit, facts.allow_different_licence) == (True, True, False)
    assert facts.allow_commercial_use == ()
    assert facts.trigger_words == ("figma",)
    assert facts.origin == "https://civitai.com/models/7984?modelVersionId=9413"
    assert facts_of_json(MODEL, weights_name="unheard-of.safetensors").base_label == "SDXL 1.0"


def test_permissions_inside_the_model_of_a_version_count() -> None:
    values = {**VERSION, "model": {**VERSION["model"], "allowDerivatives": False, "poi": True, "minor": True}}

    facts = facts_of_json(values)

    assert (facts.allow_derivatives, facts.real_person, facts.minor) == (False, True, True)


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (["Image", "Sell"], ("Image", "Sell")),
        ("{Image,RentCivit,Sell}", ("Image", "RentCivit", "Sell")),
        ("Sell", ("Sell",)),
        ("None", ()),
        (["None"], ()),
        ([], ()),
        (None, ()),
        (7, ()),
    ],
)
def test_commercial_use_is_understood_in_all_the_forms_it_has_had(said: object, understood: tuple[str, ...]) -> None:
    assert facts_of_json({"allowCommercialUse": said}).allow_commercial_use == understood


def test_notes_of_a_web_ui_and_sidecars_of_managers_are_understood() -> None:
    notes = facts_of_json({"description": "x", "sd version": "SD1", "activation text": "bold style", "notes": ""})
    manager = facts_of_json({"model_name": "Bold", "base_model": "SD 1.5", "sha256": "C" * 64, "civitai": VERSION})
    matrix = facts_of_json(
        {"ModelName": "Bold", "BaseModel": "SD 1.5", "Hashes": {"SHA256": "d" * 64}, "TrainedWords": ["a"]}
    )

    assert (notes.base_label, notes.trigger_words, notes.name) == ("SD1", ("bold style",), None)
    assert (manager.name, manager.base_label, manager.sha256) == ("Faster than light", "SD 1.5", "c" * 64)
    assert manager.origin == "https://civitai.com/models/215485?modelVersionId=242807"
    assert (matrix.name, matrix.sha256, matrix.trigger_words) == ("Bold", "d" * 64, ("a",))


@pytest.mark.parametrize(
    ("values", "is_gated", "is_out"),
    [
        ({"usageControl": "Generation"}, True, False),
        ({"usageControl": "Download"}, False, False),
        ({"availability": "EarlyAccess"}, True, False),
        ({"mode": "TakenDown"}, False, True),
        ({"mode": "Archived"}, False, True),
        ({"opt_out": True}, False, True),
        ({}, False, False),
    ],
)
def test_restricted_and_withdrawn_models_are_marked(values: dict[str, object], *, is_gated: bool, is_out: bool) -> None:
    facts = facts_of_json(values)

    assert (facts.gated, facts.opt_out) == (is_gated, is_out)


def test_a_card_tells_base_licence_and_words() -> None:
    facts = facts_of_card(
        {
            "base_model": ["digits/v1", "x/y"],
            "license": "other",
            "license_name": "my-terms",
            "instance_prompt": "bold style",
            "tags": ["LoRA", "text-to-image"],
            "widget": [{"text": "a bold seven"}, "no object"],
            "extra_gated_prompt": "please ask",
        }
    )

    assert (facts.base_label, facts.licence, facts.kind, facts.gated) == ("digits/v1", "my-terms", "lora", True)
    assert (facts.trigger_words, facts.prompts) == (("bold style",), ("a bold seven",))
    assert facts_of_card({"license": "unknown"}).licence is None


@pytest.mark.parametrize(
    ("values", "prompts"),
    [
        ({"images": [{"meta": {"prompt": "a cat"}}, {"meta": {"prompt": "a cat"}}]}, ("a cat",)),
        ({"images": [{"meta": {"id": 7, "meta": {"prompt": "a cat"}}}]}, ("a cat",)),
        ({"images": [{"meta": None}], "civitai": {"images": [{"meta": {"prompt": "a dog"}}]}}, ("a dog",)),
        (
            {"civitai": {"images": [{"meta": {"prompt": "a"}}], "customImages": [{"meta": {"prompt": "b"}}]}},
            ("a", "b"),
        ),
        ({"modelVersions": [{"images": [{"meta": {"prompt": "a dog"}}]}]}, ("a dog",)),
        ({"images": [{"meta": {"prompt": " - "}}, {"meta": {"prompt": ["x"]}}, {"meta": "x"}, 7]}, ()),
        ({"images": {"meta": {"prompt": "x"}}}, ()),
        ({"images": [{"meta": {"prompt": f"{number} cats"}} for number in range(99)]}, 16),
    ],
)
def test_example_prompts_are_found_wherever_a_tool_keeps_them(
    values: dict[str, object], prompts: tuple[str, ...] | int
) -> None:
    found = facts_of_json(values).prompts

    assert (len(found) if isinstance(prompts, int) else found) == prompts


@pytest.mark.parametrize(
    ("front", "prompts"),
    [
        ({"widget": [{"text": "a cat", "output": {"url": "x.png"}}, {"text": "-"}, {"src": "y.png"}]}, ("a cat",)),
        ({"widget": {"text": "a cat"}}, ("a cat",)),
        (
            {"widget": [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello"}]}]},
            ("Hello",),
        ),
        ({"widget": [{"messages": "x"}, {"messages": [7]}, "z", None], "instance_prompt": "TOK"}, ()),
        ({"widget": "a cat", "instance_prompt": None}, ()),
        ({"instance_prompt": "lit from the right"}, ()),
        ({"instance_prompt": "a photo of sks dog", "widget": [{"text": "sks dog"}]}, ("sks dog", "a photo of sks dog")),
    ],
)
def test_a_card_gives_the_prompts_of_its_widgets_and_an_instance_prompt_that_names_a_scene(
    front: dict[str, object], prompts: tuple[str, ...]
) -> None:
    assert facts_of_card(front).prompts == prompts


def test_example_prompts_of_all_sidecars_are_kept_the_most_trusted_first() -> None:
    joined = merge([Facts(prompts=("a", "b")), Facts(), Facts(prompts=("b", "c"))])

    assert joined.prompts == ("a", "b", "c")


def test_the_first_to_know_is_believed_but_a_prohibition_counts_whoever_states_it() -> None:
    joined = merge(
        [
            Facts(name="first", allow_derivatives=True, notes=("a",)),
            Facts(name="second", base_label="SD 1.5", allow_derivatives=False, real_person=True, notes=("b",)),
        ]
    )

    assert (joined.name, joined.base_label) == ("first", "SD 1.5")
    assert (joined.allow_derivatives, joined.real_person) == (False, True)
    assert joined.notes == ("a", "b")
    assert merge([]) == Facts()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"a": ' * 100_000,
        b'{"trainedWords": ' + b"9" * 5000 + b"}",
        b" " * (5 << 20),
    ],
)
def test_json_that_cannot_be_read_becomes_a_note_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bold.civitai.info"
    path.write_bytes(content)

    facts = read_sidecar(path, weights_name="bold.safetensors")

    assert facts == Facts(notes=facts.notes)
    assert facts.notes[0].startswith("bold.civitai.info: ")


@pytest.mark.parametrize(
    "front",
    ["a: [", "a: &a [*a]\nb: *b", "- 1", "!!python/object/apply:os.system ['true']", "x: " + "y" * 70_000],
)
def test_front_matter_that_cannot_be_read_is_no_error(tmp_path: Path, front: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"---\n{front}\n---\nbody")

    facts = read_sidecar(path, weights_name="x")

    assert facts == Facts(notes=facts.notes)


def test_a_card_is_read_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes("\ufeff---\r\nlicense: mit\r\n---\r\n# Bold".encode())

    assert read_sidecar(path, weights_name="x").licence == "mit"


def test_a_readme_without_front_matter_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# My files\n---\nlicense: mit\n---\n")

    assert read_sidecar(path, weights_name="x") == Facts()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "model",
                        "name",
                        "files",
                        "hashes",
                        "SHA256",
                        "images",
                        "meta",
                        "prompt",
                        "trainedWords",
                        "civitai",
                    ),
                    *(
                        "modelVersions",
                        "allowDerivatives",
                        "allowCommercialUse",
                        "poi",
                        "mode",
                        "id",
                        "modelId",
                        "creator",
                    ),
                    *(
                        "base_model",
                        "license",
                        "license_name",
                        "tags",
                        "widget",
                        "text",
                        "instance_prompt",
                        "usageControl",
                    ),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(string.ascii_letters, max_size=12), anything, max_size=4), anything)
def test_no_shape_of_json_or_yaml_breaks_the_reading(values: dict[str, object], more: object) -> None:
    both = {**values, **(more if isinstance(more, dict) else {})}

    for facts in (facts_of_json(both, weights_name="x"), facts_of_card(both)):
        assert all(isinstance(word, str) and word == clean(word) for word in (*facts.trigger_words, *facts.prompts))
        assert len(facts.trigger_words) <= 16
        assert facts.allow_derivatives in (None, True, False)
        json.dumps([facts.name, facts.licence, facts.base_label, facts.origin])


def test_what_strangers_write_is_brought_to_one_harmless_line() -> None:
    assert clean("a\n\tb\x00\x1b[31m\u202e c\u200b") == "a b[31m c"
    assert len(clean("x" * 10_000)) == 500
    assert clean("été 日本") == "été 日本"
