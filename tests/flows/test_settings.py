from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flows import settings
from flows.settings import Migration, SettingsError, data_folder, fingerprint, load_migration

GOOD = """
name = "old-to-new"
[catalogue]
path = "loras"
[bases.old]
path = "bases/old"
labels = ["Old One"]
[bases.new]
path = "bases/new"
[[pairs]]
source = "old"
target = "new"
method = "copy"
[score]
prompts = ["a digit"]
"""


def write(folder: Path, text: str = GOOD) -> Path:
    for name in ("loras", "bases/old", "bases/new"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / "migration.toml"
    file.write_text(text)
    return file


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_migration(write(folder, text))
    return str(caught.value)


def test_paths_are_relative_to_the_file_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "somewhere")
    monkeypatch.chdir(tmp_path)
    found = load_migration(Path("somewhere/migration.toml"))
    assert found.catalogue.path == file.parent / "loras"
    assert found.bases["old"].path == file.parent / "bases" / "old"


def test_the_hub_lies_in_the_data_folder_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    found = load_migration(write(tmp_path))
    assert found.hub_folder(tmp_path / "d") == tmp_path / "d" / "hub"


def test_a_hub_path_is_relative_to_the_file_too(tmp_path: Path) -> None:
    found = load_migration(write(tmp_path, GOOD + '[hub]\npath = "../public"\n'))
    assert found.hub_folder(tmp_path / "d") == tmp_path.parent / "public"


@pytest.mark.parametrize(
    ("wrong", "table", "meant"),
    [
        ('nmae = "x"\n' + GOOD, "top level", "name"),
        (GOOD.replace("prompts", "promts"), "[score]", "prompts"),
        (GOOD.replace("labels", "label"), "[bases.old]", "labels"),
        (GOOD.replace("method", "methd"), "[[pairs]] number 1", "method"),
        (GOOD + "[gate]\ndivergence_gian = 1.0\n", "[gate]", "divergence_gain"),
    ],
)
def test_an_unknown_name_is_refused_with_its_table_and_the_nearest_known_name(
    tmp_path: Path, wrong: str, table: str, meant: str
) -> None:
    text = refusal(tmp_path, wrong)
    assert f"migration.toml {table}: unknown setting" in text
    assert f"did you mean '{meant}'?" in text


def test_a_name_like_no_other_gets_the_list_of_names(tmp_path: Path) -> None:
    assert "known: allowed_under_copy, divergence_gain" in refusal(tmp_path, GOOD + "[gate]\nzzzzzz = 1\n")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace('["a digit"]', '"a digit"').replace('name = "old-to-new"', ""))
    assert "'name' is missing" in text
    assert "[score]: prompts" in text


def test_a_missing_folder_is_named_with_its_table(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace("bases/new", "bases/nowhere"))
    assert f"[bases.new]: path: there is no folder {tmp_path / 'bases' / 'nowhere'}" in text


def test_a_pair_of_an_unknown_base_is_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace('target = "new"', 'target = "nwe"'))
    assert "[[pairs]] number 1: target: there is no [bases.nwe]; did you mean 'new'?" in text


def test_two_targets_for_one_source_are_refused_with_the_way_out(tmp_path: Path) -> None:
    more = GOOD.replace("[score]", '[[pairs]]\nsource = "old"\ntarget = "new"\n[score]')
    assert "write a second settings file" in refusal(tmp_path, more)


def test_a_pair_of_a_base_with_itself_is_refused(tmp_path: Path) -> None:
    assert "source and target are both 'old'" in refusal(tmp_path, GOOD.replace('target = "new"', 'target = "old"'))


def test_a_file_that_is_not_there_is_named_with_the_folder_that_was_looked_in(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml: no such file \(looked in"):
        load_migration(tmp_path / "nothing.toml")


def test_text_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 1" in refusal(tmp_path, "name = = 1")


def test_the_data_folder_is_the_one_given_then_the_environment_then_the_default(tmp_path: Path) -> None:
    environment = {"LORAX_DATA": str(tmp_path / "from-environment")}
    assert data_folder(tmp_path / "given", environment) == tmp_path / "given"
    assert data_folder(None, environment) == tmp_path / "from-environment"
    assert data_folder(None, {}) == Path.cwd() / "lorax-data"


def test_settings_that_are_spelled_out_are_the_same_as_defaults(tmp_path: Path) -> None:
    short = load_migration(write(tmp_path))
    full = load_migration(write(tmp_path, GOOD + "samples = 16\nrounds = 2\n[gate.families]\n[encoders]\n"))
    assert short.effective() == full.effective()


def test_the_fingerprint_sees_values_and_not_their_order() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_the_tables_have_the_names_and_defaults_of_what_they_configure() -> None:
    """A setting that the library does not know, or another default than the library's, would be a lie in the docs."""
    from catalogs.policy import Policy
    from lorax.gate import GateSettings
    from lorax.probe import ProbeSettings
    from lorax.score_settings import ScoreSettings

    for table, kinds, own in (
        (settings.ScoreTable, (ProbeSettings, ScoreSettings), set()),
        (settings.Thresholds, (GateSettings,), set()),
        (settings.GateTable, (GateSettings,), {"families"}),
        (settings.PolicyTable, (Policy,), set()),
    ):
        theirs = {field.name: default_of(field) for kind in kinds for field in dataclasses.fields(kind)}
        ours = {name: field.get_default(call_default_factory=True) for name, field in table.model_fields.items()}
        assert set(ours) == set(theirs) | own
        required = {name for name, default in theirs.items() if default is dataclasses.MISSING}
        assert {name: ours[name] for name in set(theirs) - required} == {
            name: theirs[name] for name in set(theirs) - required
        }


def default_of(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def test_every_table_is_a_field_of_the_migration() -> None:
    assert set(settings.TABLES) == set(Migration.model_fields) - {"name"}


ENCODERS = """
[encoders.eye]
kind = "dinov2"
path = "eyes/dino"
[encoders.far]
kind = "clip"
path = "hub:someone/clip@main"
"""


def test_encoders_lie_beside_the_file_or_on_a_hub_and_are_part_of_how_is_scored(tmp_path: Path) -> None:
    found = load_migration(write(tmp_path, GOOD + ENCODERS))
    assert found.scoring()["encoders"] == {
        "eye": {"kind": "dinov2", "path": str(tmp_path / "eyes" / "dino")},
        "far": {"kind": "clip", "path": "hub:someone/clip@main"},
    }
    assert load_migration(write(tmp_path)).scoring()["encoders"] == {}


def test_an_encoder_needs_a_kind_and_a_place(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD + '[encoders.eye]\nkid = "clip"\n')
    assert "[encoders.eye]: 'kind' is missing" in text
    assert "[encoders.eye]: 'path' is missing" in text
    assert "[encoders.eye]: unknown setting 'kid'" in text


def test_a_gate_has_thresholds_for_all_figures_and_others_for_a_family(tmp_path: Path) -> None:
    gate = """
    [gate]
    divergence_gain = 0.3
    least = { effect_cosine = 0.5 }
    most.drift = 0.4
    [gate.families.sdxl]
    margin_over_random = 0.2
    """
    found = load_migration(write(tmp_path, GOOD + gate)).gate
    assert (found.divergence_gain, found.margin_over_random, found.allowed_under_copy) == (0.3, None, None)
    assert (found.least, found.most) == ({"effect_cosine": 0.5}, {"drift": 0.4})
    assert found.families["sdxl"].margin_over_random == 0.2
    assert found.families["sdxl"].divergence_gain is None


def test_a_threshold_of_a_family_is_refused_by_its_name(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD + "[gate.families.sdxl]\ndivergence_gian = 0.2\n")
    assert "[gate.families.sdxl]: unknown setting 'divergence_gian'" in text


def test_files_that_scores_read_are_relative_to_the_settings(tmp_path: Path) -> None:
    files = 'text = "a.txt"\npredict = "b.txt"\nquestions = "../c.txt"\nharness_tasks = "tasks"\n'
    score = load_migration(write(tmp_path, GOOD + files)).scoring()
    assert [score[name] for name in ("text", "predict", "questions", "harness_tasks")] == [
        str(tmp_path / "a.txt"),
        str(tmp_path / "b.txt"),
        str(tmp_path.parent / "c.txt"),
        str(tmp_path / "tasks"),
    ]


@pytest.mark.parametrize("wrong", ["rounds = 7", "rounds = -1", "samples = 0", "pictures = -1", "length = 1"])
def test_numbers_that_make_no_score_are_refused(tmp_path: Path, wrong: str) -> None:
    assert f"[score]: {wrong.partition(' ')[0]}: " in refusal(tmp_path, GOOD + wrong + "\n")


def test_bases_that_draw_pictures_are_not_scored_without_prompts(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace('prompts = ["a digit"]', ""))
    assert load_migration(file).score.prompts == ()
    (tmp_path / "bases" / "new" / "unet").mkdir()
    with pytest.raises(SettingsError, match=r"number 1: its bases draw pictures, .* prompts = "):
        load_migration(file)


NAMED = """
name = "old-to-new"
[catalogue]
path = "loras"
[bases."sd1.5"]
[bases.new]
known = "segmind/small-sd"
labels = ["New One"]
[[pairs]]
source = "sd1.5"
target = "new"
method = "copy"
dialect = "kohya"
"""


def test_a_base_without_a_path_is_known_by_its_name_and_needs_no_prompts(tmp_path: Path) -> None:
    found = load_migration(write(tmp_path, NAMED))
    assert {name: (base.path, base.known) for name, base in found.bases.items()} == {
        "sd1.5": (None, "sd1.5"),
        "new": (None, "segmind/small-sd"),
    }
    assert (found.pairs[0].dialect, found.score.prompts) == ("kohya", ())


def test_a_name_that_nobody_knows_is_refused_with_those_near_it_and_what_else_to_give(tmp_path: Path) -> None:
    text = refusal(tmp_path, NAMED.replace("segmind/small-sd", "bk-sdm-smal"))
    assert "[bases.new]: there is no path, and no base model is known by the name 'bk-sdm-smal'" in text
    assert "near it: bk-sdm-small," in text
    assert "Give the folder of the base as path" in text


def test_a_path_and_a_name_for_one_base_are_one_too_many(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace("[bases.new]", '[bases.new]\nknown = "sdxl"'))
    assert "[bases.new]: known: a base with a path needs no other name" in text


@pytest.mark.parametrize(
    ("method", "need"),
    [
        ("calibrated", "needs activations: it runs both bases on a probe"),
        ("lora-x", "needs weights: it computes with the weights of both bases"),
    ],
)
def test_a_method_that_needs_more_than_a_name_is_refused_with_what_to_give(
    tmp_path: Path, method: str, need: str
) -> None:
    text = refusal(tmp_path, NAMED.replace('"copy"', f'"{method}"'))
    assert f"[[pairs]] number 1: method: '{method}' {need}, but sd1.5 and new are known by name alone" in text
    assert "Give [bases.sd1.5] and [bases.new] a path, or take a method that needs shapes alone: copy" in text


def test_a_method_that_needs_weights_says_which_of_two_bases_lacks_them(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace('path = "bases/new"', 'known = "sdxl"').replace("copy", "prolora"))
    assert "but new is known by name alone. Give [bases.new] a path" in text


def test_the_default_method_is_held_to_the_same(tmp_path: Path) -> None:
    assert "'calibrated' needs activations" in refusal(tmp_path, NAMED.replace('method = "copy"', ""))


@pytest.mark.parametrize(("dialect", "said"), [("khoya", "does not exist"), ("cloneofsimo", "is only read")])
def test_a_dialect_that_cannot_be_written_is_refused_with_those_that_can(
    tmp_path: Path, dialect: str, said: str
) -> None:
    text = refusal(tmp_path, NAMED.replace('"kohya"', f'"{dialect}"'))
    assert f"[[pairs]] number 1: dialect '{dialect}' {said}; choose one of" in text
    assert "kohya" in text
