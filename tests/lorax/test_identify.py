from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lorax.adapter import SiteShape
from lorax.algorithm import Layout, same_weight
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.dialect import Container, Evidence
from lorax.dialects import DIALECTS
from lorax.errors import Unsupported
from lorax.examine import Examination, Module
from lorax.identify import alias_table, identify, normalised
from lorax.inventories.unet import UNet
from lorax.weight_file import WeightFile, open_weight_file, write_weight_file
from tests.stand_ins.adapter_files import small_base

HASH = "4ef0789828922df7fd0488b7c3dc25a8edd126fc573de2a6d9b94d963421db9b"
V1 = small_base("small-v1", labels=["Small v1", "examples/small-v1"], file_hashes=[HASH])
V2 = small_base("small-v2", labels=["Small v2"], file_hashes=["5" * 64])
WIDE = small_base("wide", unet=UNet(channels=1, widths=(8, 24), depths=(1, 1), middle_depth=1, layers=1, context=12))
SHALLOW = small_base(
    "shallow", unet=UNet(channels=1, widths=(8, 16), depths=(0, 1), middle_depth=1, layers=1, context=12)
)
KNOWN = replace(small_base("Small", labels=["small_arch", "SM 1"], fingerprint=""), version="sm1")
Ask = Callable[..., tuple[str, str]]
KOHYA = DIALECTS["kohya"]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> WeightFile:
    path = tmp_path_factory.mktemp("identify") / "x.safetensors"
    write_weight_file(path, {})
    return open_weight_file(path)


@pytest.fixture
def who(empty_file: WeightFile) -> Ask:
    """Gives a function that names the base of an adapter on all sites of a base, and keeps the evidence."""

    def ask(
        candidates: Sequence[BaseModel],
        metadata: Mapping[str, str] | None = None,
        *,
        config: Mapping[str, object] | None = None,
        labels: Sequence[str] = (),
        modules: Mapping[str, SiteShape] | None = None,
    ) -> tuple[str, str]:
        container = Container(replace(empty_file, metadata=metadata or {}), config, "bold.safetensors")
        found = examination(container, modules if modules is not None else modules_of(V1))
        answer = identify(found, candidates=candidates, labels=labels)
        if answer.problem is not None:
            raise answer.problem
        assert answer.verdict.name == answer.base.name
        return answer.base.name, "; ".join(answer.verdict.evidence)

    return ask


def modules_of(base: BaseModel, *, match: str = "") -> dict[str, SiteShape]:
    spellings = {module.parts[0].site: spelling for spelling, module in reversed(list(KOHYA.modules(base)))}
    return {spellings[site]: shape for site, shape in base.sites.items() if match in site.path}


def examination(container: Container, shapes: Mapping[str, SiteShape]) -> Examination:
    modules = tuple(
        Module(spelling, {}, ALGORITHMS["lora"], Layout(shape, 4), {}) for spelling, shape in shapes.items()
    )
    return Examination(container, KOHYA, Evidence(1, "made here"), modules, (), None)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("digits-v1/lora", "digitsv1"),
        ("Digits_V1", "digitsv1"),
        ("digits-v1.safetensors", "digitsv1"),
        (r"D:\models\Digits v1.ckpt", "digitsv1"),
        ("/home/someone/bases/digits-v1/unet", "digitsv1"),
        ("lorax-examples/digits-v1", "digitsv1"),
        ("SD 1.5", "sd15"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stablediffusionv15"),
        ("stable-diffusion-v1/lora", "stablediffusionv1"),
        ("", ""),
        ("///", ""),
    ],
)
def test_names_are_compared_by_what_writers_agree_on(word: str, expected: str) -> None:
    assert normalised(word) == expected


def test_a_base_whose_shapes_alone_fit_needs_no_word(who: Ask) -> None:
    name, evidence = who([V1, WIDE])

    assert name == "small-v1"
    assert "names and shapes of small-v1" in evidence


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_new_sd_model_hash": HASH},
        {"ss_new_sd_model_hash": HASH.upper()},
        {"modelspec.architecture": "small-v1/lora"},
        {"ss_base_model_version": "small_v1"},
        {"ss_sd_model_name": "small-v1.safetensors"},
        {"ss_sd_model_name": "D:/models/small-v1.safetensors"},
        {"lora_adapter_metadata": '{"unet.base_model_name_or_path": "examples/small-v1"}'},
    ],
)
def test_one_word_of_the_file_decides_between_bases_of_one_shape(metadata: dict[str, str], who: Ask) -> None:
    name, evidence = who([V2, V1], metadata)

    assert name == "small-v1"
    assert next(iter(metadata)) in evidence or "base_model_name_or_path" in evidence
    assert "D:/models" not in evidence


def test_peft_and_the_catalogue_may_decide_too(who: Ask) -> None:
    assert who([V1, V2], config={"base_model_name_or_path": "x/small-v2"})[0] == "small-v2"
    assert who([V1, V2], labels=["Small v2"])[0] == "small-v2"


def test_without_any_word_equal_bases_stay_undecided_and_the_message_says_what_would_help(who: Ask) -> None:
    with pytest.raises(Unsupported, match="small-v1, small-v2") as raised:
        who([V1, V2], {"ss_sd_model_name": "something else"})

    assert raised.value.reason == "base-undecided"
    assert "something else" in str(raised.value)
    assert "ss_new_sd_model_hash" in str(raised.value)


@pytest.mark.parametrize(
    ("metadata", "labels"),
    [
        ({"ss_new_sd_model_hash": HASH, "modelspec.architecture": "small-v2/lora"}, []),
        ({"modelspec.architecture": "small-v1/lora", "ss_sd_model_name": "small-v2"}, []),
        ({"ss_base_model_version": "small_v1"}, ["Small v2"]),
        ({"ss_base_model_version": "wide"}, []),
        ({"ss_new_sd_model_hash": HASH, "modelspec.architecture": "stable-diffusion-v1/lora"}, []),
    ],
)
def test_evidence_against_evidence_is_a_contradiction(metadata: dict[str, str], labels: list[str], who: Ask) -> None:
    with pytest.raises(Unsupported) as raised:
        who([V1, V2, WIDE, *known_bases()], metadata, labels=labels)

    assert raised.value.reason == "base-contradicted"


def test_a_label_gives_way_to_the_hash_of_the_base_and_is_reported(who: Ask) -> None:
    name, evidence = who([V1, V2], {"ss_new_sd_model_hash": HASH}, labels=["Small v2"])

    assert name == "small-v1"
    assert "overruled" in evidence


def test_words_that_name_no_base_at_hand_are_reported_and_change_nothing(who: Ask) -> None:
    name, evidence = who([V1, V2], {"ss_new_sd_model_hash": "0" * 64, "ss_sd_model_name": "small-v1"})

    assert name == "small-v1"
    assert "no base model at hand" in evidence


def test_a_word_for_an_architecture_holds_for_every_checkpoint_of_it(who: Ask) -> None:
    first, second = replace(V1, version="sm1"), replace(V2, version="sm1")
    metadata = {"ss_base_model_version": "small_arch", "ss_sd_model_name": "small-v2"}

    assert who([first, second, KNOWN], metadata)[0] == "small-v2"


def test_bases_whose_weights_are_at_hand_go_before_known_inventories(who: Ask) -> None:
    assert who([KNOWN, V1])[0] == "small-v1"
    assert who([KNOWN, WIDE])[0] == "Small"


def test_a_shallow_base_is_told_from_one_that_contains_it(who: Ask) -> None:
    assert who([V1, SHALLOW], modules=modules_of(V1))[0] == "small-v1"
    with pytest.raises(Unsupported) as raised:
        who([V1, SHALLOW], modules=modules_of(SHALLOW, match="mid_block"))
    assert raised.value.reason == "base-undecided"


def test_the_base_that_an_adapter_covers_whole_goes_before_one_that_contains_it(who: Ask) -> None:
    name, evidence = who([V1, SHALLOW], modules=modules_of(SHALLOW, match="attn"))

    assert name == "shallow"
    assert "of shallow" in evidence


def test_a_variant_gives_way_to_the_plain_version_unless_words_name_it(who: Ask) -> None:
    found = modules_of(known("sd1.5"), match="attn")

    name, evidence = who(known_bases(), modules=found)

    assert name == "sd1.5"
    assert "sd1.5-inpainting would do as well" in evidence
    assert who(known_bases(), modules=found, labels=["sd1.5-inpainting"])[0] == "sd1.5-inpainting"


def test_a_word_for_a_model_that_only_looks_alike_is_a_contradiction(who: Ask) -> None:
    found = modules_of(known("sdxl"), match="attn")

    assert who(known_bases(), modules=found, labels=["Pony"])[0] == "sdxl"
    with pytest.raises(Unsupported, match="Kolors") as raised:
        who(known_bases(), modules=found, labels=["Kolors"])
    assert raised.value.reason == "base-contradicted"


def test_a_word_for_a_family_leaves_its_versions_to_the_shapes(who: Ask) -> None:
    for name in ("ltx-video-2b", "ltx-video-13b"):
        assert who(known_bases(), modules=modules_of(known(name), match="attn"), labels=["LTXV"])[0] == name


def known(name: str) -> BaseModel:
    return next(base for base in known_bases() if base.name == name)


@pytest.mark.parametrize("candidates", [[], [WIDE], known_bases()])
def test_an_adapter_of_another_model_is_refused_with_the_nearest(candidates: list[BaseModel], who: Ask) -> None:
    with pytest.raises(Unsupported) as raised:
        who(candidates)

    assert raised.value.reason == "base-unknown"
    assert "[bases]" in str(raised.value)


@pytest.mark.parametrize("odd", [0, 1])
def test_one_module_in_a_hundred_may_be_odd(odd: int, who: Ask) -> None:
    modules = modules_of(V1)
    assert 100 < len(modules) < 200

    name, _ = who([V1], modules=modules | {f"lora_unet_odd_{index}": SiteShape(4, 4) for index in range(odd)})

    assert name == "small-v1"


def test_more_than_one_in_a_hundred_may_not(who: Ask) -> None:
    with pytest.raises(Unsupported, match="lora_unet_odd_0"):
        who([V1], modules=modules_of(V1) | {f"lora_unet_odd_{index}": SiteShape(4, 4) for index in range(3)})


def test_a_one_by_one_convolution_is_a_linear_layer_and_no_other_is() -> None:
    assert same_weight(SiteShape(4, 6), SiteShape(4, 6, (1, 1)))
    assert not same_weight(SiteShape(4, 54), SiteShape(4, 6, (3, 3)))
    assert not same_weight(SiteShape(6, 4), SiteShape(4, 6))


def test_the_alias_table_is_made_once(tmp_path: Path) -> None:
    assert alias_table(V1, KOHYA) is alias_table(V1, KOHYA)
