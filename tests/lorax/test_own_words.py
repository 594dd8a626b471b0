from __future__ import annotations

import dataclasses
import string
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catalogs.sources.folder import scan_folder
from lorax.adapter import Adapter, BaseVerdict
from lorax.neutral_prompts import NEUTRAL_PROMPTS
from lorax.own_words import CATALOGUE, DATASET, LONGEST, NEUTRAL, TRIGGERS, cleaned, own_prompts
from lorax.probe import ProbeSettings, prompts_for

DIGITS = ("a handwritten zero", "a handwritten one", "a handwritten seven")
PLAIN = st.text(string.ascii_lowercase, min_size=1, max_size=12)


def adapter(*words: str) -> Adapter:
    return Adapter({}, "kohya", ("lora",), torch.float16, {}, words, BaseVerdict(None, "", ""), "0" * 64)


def settings(*prompts: str, samples: int = 3) -> ProbeSettings:
    return ProbeSettings(prompts=prompts, samples=samples)


def test_trigger_words_stand_behind_the_prompts_of_the_settings() -> None:
    found = own_prompts(adapter("bold style"), (), settings(*DIGITS))

    assert found.prompts[2] == "a handwritten seven, bold style"
    assert found.prompts == prompts_for(settings(*DIGITS), ("bold style",))
    assert found.sources == (TRIGGERS,) * 3


def test_more_samples_than_prompts_begin_again_and_leave_the_first_as_they_were() -> None:
    few = own_prompts(adapter("bold style"), (), settings(*DIGITS, samples=2))
    many = own_prompts(adapter("bold style"), (), settings(*DIGITS, samples=7), dataset=("seven", "one", "Zero"))

    assert many.prompts == prompts_for(settings(*DIGITS, samples=7), ("bold style",))
    assert many.prompts[:2] == few.prompts


def test_the_catalogues_examples_come_first_then_triggers_then_the_training_set() -> None:
    found = own_prompts(
        adapter("inkdrop"),
        ["masterpiece, inkdrop cat <lora:inkdrop:0.8>", "a dog"],
        settings("a house", "a tree", samples=6),
        dataset=("brush", "inkdrop", "tree"),
    )

    assert list(zip(found.prompts, found.sources, strict=True)) == [
        ("masterpiece, inkdrop cat", CATALOGUE),
        ("a dog, inkdrop", CATALOGUE),
        ("a house, inkdrop", TRIGGERS),
        ("a tree, inkdrop", TRIGGERS),
        ("a house, inkdrop, brush", DATASET),
        ("masterpiece, inkdrop cat", CATALOGUE),
    ]


def test_without_trigger_words_neutral_prompts_follow_the_training_set() -> None:
    found = own_prompts(adapter(), (), settings("a house", "a tree", samples=4), dataset=("brush",))

    assert found.prompts == ("a house, brush", "a house", "a tree", "a house, brush")
    assert found.sources == (DATASET, NEUTRAL, NEUTRAL, DATASET)


@pytest.mark.parametrize("known", [None, adapter()])
def test_without_any_word_the_prompts_are_neutral(known: Adapter | None) -> None:
    assert own_prompts(known, (), settings("a house", samples=2)).sources == (NEUTRAL, NEUTRAL)
    assert own_prompts(known, (), settings(samples=20)).prompts == (*NEUTRAL_PROMPTS, *NEUTRAL_PROMPTS[:4])


def test_models_of_text_have_no_neutral_prompts_of_their_own() -> None:
    assert own_prompts(adapter(), (), settings(samples=2), pictures=False).prompts == ("", "")
    assert own_prompts(adapter("haiku"), (), settings(samples=2), pictures=False).prompts == ("haiku", "haiku")
    found = own_prompts(adapter(), ["f(x:1) [BREAK]"], settings(samples=1), pictures=False)
    assert (found.prompts, found.sources) == (("f(x:1) [BREAK]",), (CATALOGUE,))


def test_an_example_that_is_the_trigger_alone_is_no_example_unless_it_names_a_scene() -> None:
    short = own_prompts(adapter("bold style"), ["Bold_Style", "-", ""], settings("a house", samples=1))
    manner = own_prompts(adapter("lit from the right"), ["lit from the right"], settings("a house", samples=1))
    phrase = own_prompts(adapter("a photo of sks dog"), ["a photo of sks dog"], settings("a house", samples=1))

    assert short.prompts == ("a house, bold style",)
    assert manner.prompts == ("a house, lit from the right",)
    assert phrase.prompts == ("a photo of sks dog",)


def test_an_example_counts_as_calling_the_adapter_by_the_first_part_of_a_list_of_words() -> None:
    miku = adapter("fukawa_miku, green eyes, apron")
    found = own_prompts(miku, ["Fukawa Miku in the rain", "fukawa_mikus", "1girl"], settings("a house"))

    assert found.prompts == (
        "Fukawa Miku in the rain",
        "fukawa_mikus, fukawa_miku, green eyes, apron",
        "1girl, fukawa_miku, green eyes, apron",
    )


def test_the_same_example_in_another_spelling_comes_once() -> None:
    found = own_prompts(adapter(), ["a (cat:1.2)", "A cat", "a   cat,,"], settings("a house", samples=2))

    assert found.prompts == ("a cat", "a house")


def test_trigger_words_keep_their_place_behind_a_long_example() -> None:
    [prompt] = own_prompts(adapter("inkdrop"), ["very " * 200], settings("a house", samples=1)).prompts

    assert prompt.endswith("very, inkdrop")
    assert len(prompt) <= LONGEST


def test_the_users_own_prompts_are_never_shortened() -> None:
    long = "a long, long story " * 40

    assert own_prompts(adapter("bold"), (), settings(long, samples=1)).prompts == (f"{long}, bold",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<lora:bold:1>, a cat", "a cat"),
        ("a cat <lyco:x y:0.5:lbw=MIDD> on a mat", "a cat on a mat"),
        ("(a cat:1.2), ((a mat))", "a cat, a mat"),
        ("(masterpiece:1.2, best quality), [blurry], {x}", "masterpiece:1.2, best quality, blurry, x"),
        ("[a cat:a dog:0.5]", "a cat:a dog"),
        ("a cat BREAK a mat AND a dog | rain", "a cat, a mat, a dog, rain"),
        ("a cat,, ,a mat,", "a cat, a mat"),
        (r"smart falcon \(umamusume\), (rain:.8)", "smart falcon (umamusume), rain"),
        ("a cat\nembedding:easy, on\ta mat", "a cat, on a mat"),
        ("BREAKFAST at the ANDES", "BREAKFAST at the ANDES"),
        ("3:4 picture <3", "3:4 picture <3"),
        ("\ue000 ear \u202e", "ear"),
        ("雨の猫、(傘:1.1)", "雨の猫、 傘"),
        ("-", ""),
        ("<lora:bold:1>", ""),
        ("", ""),
    ],
)
def test_what_web_uis_add_to_a_prompt_is_taken_out(written: str, said: str) -> None:
    assert cleaned(written) == said


@given(st.text(st.sampled_from(["(", ")", "[", "]", "{", "}", "<", ">", ":", ",", "\\", "|", "a", "1", ".", " ", "é"])))
def test_cleaning_leaves_no_syntax_that_is_not_escaped(text: str) -> None:
    said = cleaned(text)

    assert not set(said) & set("{}|\\")
    assert "\\" in text or not set(said) & set("()[]")
    assert ",," not in said.replace(" ", "")
    assert said == said.strip(", ")


@given(st.text(max_size=6_000))
def test_cleaning_is_bounded_whatever_is_written(text: str) -> None:
    said = cleaned(text)

    assert len(said) <= LONGEST
    assert said.isprintable()
    assert not said or any(letter.isalnum() for letter in said)


@given(st.lists(st.lists(PLAIN, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5))
def test_a_plain_prompt_stays_as_it_is(parts: list[str]) -> None:
    plain = ", ".join(parts)

    assert cleaned(plain) == plain
    assert cleaned(", ".join(f"({part}:1.1)" for part in parts)) == plain
    assert cleaned(f"<lora:x:1> {plain},") == plain


@given(
    words=st.lists(st.text(max_size=40), max_size=4),
    examples=st.lists(st.text(max_size=400), max_size=6),
    prompts=st.lists(PLAIN, max_size=4),
    dataset=st.lists(st.text(max_size=40), max_size=6),
    samples=st.integers(0, 20),
    pictures=st.booleans(),
)
def test_there_is_one_prompt_per_sample_and_fewer_samples_are_the_first_of_more(
    *, words: list[str], examples: list[str], prompts: list[str], dataset: list[str], samples: int, pictures: bool
) -> None:
    wanted = settings(*prompts, samples=samples)
    one = adapter(*words)
    found = own_prompts(one, examples, wanted, dataset=dataset, pictures=pictures)
    more = dataclasses.replace(wanted, samples=samples + 5)

    assert len(found.prompts) == len(found.sources) == samples
    assert own_prompts(one, examples, more, dataset=dataset, pictures=pictures).prompts[:samples] == found.prompts
    order = [(CATALOGUE, TRIGGERS, DATASET, NEUTRAL).index(source) for source in dict(
        zip(found.prompts, found.sources, strict=True)
    ).values()]  # fmt: skip
    assert order == sorted(order)


def test_the_adapters_of_the_example_are_asked_as_ever(repository: Path) -> None:
    example = repository / "examples/digits"
    wanted = ProbeSettings(
        tuple(tomllib.loads((example / "migration.toml").read_text())["score"]["prompts"]), samples=16
    )
    entries = [entry for entry in scan_folder(example / "catalogue") if entry.trigger_words]

    assert len(entries) > 10
    for entry in entries:
        found = own_prompts(adapter(*entry.trigger_words), entry.prompts, wanted, dataset=("seven", "Zero"))
        assert found.prompts == prompts_for(wanted, entry.trigger_words)


def test_neutral_prompts_name_no_style_and_are_all_different() -> None:
    assert len({prompt.casefold() for prompt in NEUTRAL_PROMPTS}) == len(NEUTRAL_PROMPTS) >= 12
    assert not any("style" in prompt or cleaned(prompt) != prompt for prompt in NEUTRAL_PROMPTS)
