from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorax import compile as compiling
from lorax.adapter import Site
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.compile import Compilation, compilation, compile_plan, compile_to
from lorax.errors import Stop
from lorax.method import SiteStatistics
from lorax.plan import PlannedSite, load_plan, plan_key
from lorax.plan_pieces import Pieces
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_decoders import DecoderPair, decoders  # noqa: F401 - fixture


class Killed(BaseException):
    """Ends a compilation as a signal would."""


def work_for(pair: Pair, method: str = "lora-x") -> Compilation:
    return compilation(pair.source, pair.target, method=method, settings={}, probe_id="tiny")


@pytest.mark.parametrize("method", ["copy", "lora-x", "prolora", "calibrated", "random", "zero"])
def test_what_is_compiled_to_disk_is_byte_for_byte_what_is_saved_from_memory(
    method: str,
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
) -> None:
    saved = lineage.plan(method).save(tmp_path / "saved")

    path = compile_to(tmp_path / "streamed", work_for(lineage, method), statistics=lineage.statistics)  # type: ignore[arg-type]

    assert path.name == saved.name
    assert path.read_bytes() == saved.read_bytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("has_weights", [True, False])
def test_stacks_of_unequal_depth_are_paired_by_their_weights_where_both_bases_have_some(
    digits: Path,
    has_weights: bool,  # noqa: FBT001
) -> None:
    """The target keeps the second of the source's two transformer blocks, under the name of the first."""
    full, slim = (open_checkpoint(digits / "bases" / name, name=name) for name in ("digits-v1", "digits-slim"))
    places = {
        site: full.places.get(Site("unet", site.path.replace("mer_blocks.0.", "mer_blocks.1.")), full.places[site])
        for site in slim.base.sites
    }
    target = Checkpoint(slim.base if has_weights else replace(slim.base, fingerprint=""), full.folder, places)

    plan = compile_plan(full, target, method="copy", settings={})

    sources = {str(site.target): str(site.source) for site in plan.sites}
    stack = "unet:up_blocks.0.attentions.1.transformer_blocks"
    assert sources[f"{stack}.0.attn1.to_q"] == f"{stack}.{int(has_weights)}.attn1.to_q"
    assert plan.key == plan_key(full.base, target.base, method="copy", settings={}, probe_id="")


def test_what_lies_around_a_site_of_a_language_model_is_the_same_in_whatever_order_sites_are_compiled(
    decoders: DecoderPair,  # noqa: F811
    tmp_path: Path,
) -> None:
    saved = decoders.plan("lorasuite").save(tmp_path / "saved")
    last = compilation(decoders.source, decoders.target, method="lorasuite", settings={})
    pieces = Pieces.beside(tmp_path / "streamed", last.head)
    for index in (13, 7, 2):
        pieces.put(index, last.site(index, {}))

    path = compile_to(
        tmp_path / "streamed", compilation(decoders.source, decoders.target, method="lorasuite", settings={})
    )

    assert path.read_bytes() == saved.read_bytes()
    assert load_plan(path).plan_id == path.stem


def test_a_compilation_that_was_killed_goes_on_and_ends_in_the_same_bytes(
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = compile_to(tmp_path / "straight", work_for(lineage))
    compiled: list[int] = []
    whole = Compilation.site

    def counted(work: Compilation, index: int, statistics: compiling.Statistics) -> PlannedSite:
        if len(compiled) == 5:
            raise Killed
        compiled.append(index)
        return whole(work, index, statistics)

    monkeypatch.setattr(Compilation, "site", counted)
    with pytest.raises(Killed):
        compile_to(tmp_path / "killed", work_for(lineage))
    assert not list((tmp_path / "killed").glob("*.safetensors"))
    again: list[int] = []
    monkeypatch.setattr(Compilation, "site", lambda *given: (again.append(given[1]), whole(*given))[1])
    told: list[tuple[int, int]] = []
    path = compile_to(tmp_path / "killed", work_for(lineage), progress=lambda *each: told.append(each))

    assert path.read_bytes() == straight.read_bytes()
    assert compiled == [0, 1, 2, 3, 4]
    assert again == list(range(5, len(work_for(lineage).matches)))
    assert (told[0][0], told[-1]) == (5, (len(work_for(lineage).matches),) * 2)
    assert list(path.parent.iterdir()) == [path]


def test_a_broken_piece_is_compiled_again(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    work = work_for(lineage)
    pieces = Pieces.beside(tmp_path, work.head)
    pieces.put(0, work.site(0, {}))
    (piece,) = pieces.folder.iterdir()
    assert pieces.has(0, work.matches[0][0])
    assert not pieces.has(0, work.matches[1][0])
    piece.write_bytes(piece.read_bytes()[:-1])
    assert not pieces.has(0, work.matches[0][0])

    path = compile_to(tmp_path, work)

    assert path.read_bytes() == compile_to(tmp_path / "other", work).read_bytes()


def test_pieces_of_other_settings_are_left_alone(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    first = work_for(lineage)
    second = compilation(lineage.source, lineage.target, method="lora-x", settings={"energy": 0.5})
    assert Pieces.beside(tmp_path, first.head).folder != Pieces.beside(tmp_path, second.head).folder


def test_a_file_can_be_named(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    path = compile_to(tmp_path / "deep" / "mine.safetensors", work_for(lineage, "copy"))

    assert path == tmp_path / "deep" / "mine.safetensors"
    assert load_plan(path).method == "copy"
    assert list(path.parent.iterdir()) == [path]


def test_statistics_are_asked_for_only_where_something_is_left_to_compile(
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
) -> None:
    work, asked = work_for(lineage, "calibrated"), []
    known = lineage.statistics()

    def statistics() -> dict[object, SiteStatistics]:
        asked.append(1)
        return known

    pieces = Pieces.beside(tmp_path, work.head)
    for index in range(len(work.matches)):
        pieces.put(index, work.site(index, known))  # type: ignore[arg-type]
    compile_to(tmp_path, work, statistics=statistics)  # type: ignore[arg-type]
    assert not asked
    compile_to(tmp_path, work, statistics=statistics)  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_method_that_needs_activations_stops_without_them(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(Stop, match="needs a probe's activations"):
        compile_to(tmp_path, work_for(lineage, "calibrated"))


def test_each_weight_is_let_go_before_the_next_site_is_compiled(
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import weakref

    alive: list[weakref.ref[object]] = []
    most = 0
    read = Checkpoint.weight

    def watched(checkpoint: Checkpoint, site: object) -> object:
        nonlocal most
        weight = read(checkpoint, site)  # type: ignore[arg-type]
        alive.append(weakref.ref(weight))
        most = max(most, sum(each() is not None for each in alive))
        return weight

    monkeypatch.setattr(Checkpoint, "weight", watched)
    compile_to(tmp_path, work_for(lineage))

    assert len(alive) >= len(lineage.target.base.sites)
    assert most <= 2
