from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter, Site
from lorax.errors import BadFile, TryLater, Unsupported
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import ReadLimits, sha256_file, weights_sha256, write_weight_file
from tests.stand_ins.adapter_files import kohya_tensors, random_adapter, same_updates, small_base, write_kohya

BASE = small_base()
MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
SITE = Site("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
Tensors = dict[str, Tensor]


def read(
    tensors: Tensors, folder: Path, *, limits: ReadLimits | None = None, metadata: dict[str, str] | None = None
) -> Adapter:
    path = folder / "bold.safetensors"
    write_weight_file(path, tensors, metadata=metadata or {})
    return read_adapter(AdapterFiles(path), candidates=[BASE], limits=limits or ReadLimits())


@pytest.fixture
def tensors() -> Tensors:
    return kohya_tensors(random_adapter(BASE, match="mid_block"))


def test_a_kohya_file_is_read_whole(tmp_path: Path) -> None:
    made = random_adapter(BASE, dtype=torch.float16)
    path = write_kohya(tmp_path / "bold.safetensors", made, {"modelspec.trigger_phrase": "bold style", "secret": "x"})

    adapter = read_adapter(AdapterFiles(path, name="styles/bold.safetensors"), candidates=[BASE])

    assert same_updates(adapter.updates, made.updates, tolerance=1e-6)
    assert (adapter.dialect, adapter.algorithms, adapter.dtype) == ("kohya", ("lora",), torch.float16)
    assert adapter.ranks() == (2, 4)
    assert adapter.trigger_words == ("bold style",)
    assert adapter.metadata == {"modelspec.trigger_phrase": "bold style"}
    assert adapter.base.name == "small-v1"
    assert adapter.weights_sha256 == weights_sha256(kohya_tensors(made))
    assert adapter.unmappable == ()
    for site, update in adapter.updates.items():
        assert update.up.dtype == update.down.dtype == torch.float32
        assert update.kernel == BASE.sites[site].kernel


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (0.0, 1.0), (1.0, 0.5), (8.0, 4.0)])
def test_the_scale_is_alpha_over_rank_and_one_where_alpha_says_nothing(
    alpha: float | None, scale: float, tmp_path: Path
) -> None:
    tensors = {f"{MODULE}.lora_down.weight": torch.ones(2, 16), f"{MODULE}.lora_up.weight": torch.ones(16, 2)}
    if alpha is not None:
        tensors[f"{MODULE}.alpha"] = torch.tensor(alpha)

    assert read(tensors, tmp_path).updates[SITE].scale == scale


def test_an_alpha_may_be_a_list_of_one_or_a_whole_number(tensors: Tensors, tmp_path: Path) -> None:
    tensors[f"{MODULE}.alpha"] = torch.tensor([3], dtype=torch.int64)

    update = read(tensors, tmp_path).updates[SITE]

    assert update.scale == 3 / update.rank


def test_factors_of_a_linear_layer_fit_a_one_by_one_convolution(tmp_path: Path) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{module}.lora_down.weight": torch.ones(2, 16), f"{module}.lora_up.weight": torch.ones(16, 2)}

    update = read(tensors, tmp_path).updates[Site("unet", "mid_block.attentions.0.proj_in")]

    assert update.dense().shape == (16, 16, 1, 1)


def test_every_type_of_number_is_read_as_float32(tensors: Tensors, tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        adapter = read({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path)

        assert adapter.dtype == dtype
        assert adapter.updates[SITE].up.dtype == torch.float32


def test_a_text_projection_that_the_base_has_not_is_left_out_knowingly(tensors: Tensors, tmp_path: Path) -> None:
    extra = {f"lora_te_text_projection.{side}.weight": torch.ones(2, 2) for side in ("lora_down", "lora_up")}

    adapter = read(tensors | extra, tmp_path)

    assert {name for name, _ in adapter.unmappable} == set(extra)
    assert all("text projection" in reason for _, reason in adapter.unmappable)


def narrow(tensor: Tensor) -> Tensor:
    """Takes one byte per number, so that a large tensor is a small file."""
    return tensor.to(torch.float8_e4m3fn)


Spoil = Callable[[Tensors], object]
UP, DOWN = f"{MODULE}.lora_up.weight", f"{MODULE}.lora_down.weight"
SPOILT: dict[str, tuple[Spoil, str]] = {
    "no tensors": (lambda t: t.clear(), "missing-weights"),
    "no up factor": (lambda t: t.pop(UP), "incomplete-pair"),
    "no down factor": (lambda t: t.pop(DOWN), "incomplete-pair"),
    "an alpha alone": (lambda t: (t.pop(UP), t.pop(DOWN)), "incomplete-pair"),
    "factors of two ranks": (lambda t: t.update({UP: torch.ones(16, 7)}), "bad-shape"),
    "a flat up factor": (lambda t: t.update({UP: torch.ones(16)}), "bad-shape"),
    "a flat down factor": (lambda t: t.update({DOWN: torch.ones(16)}), "bad-shape"),
    "a number for a factor": (lambda t: t.update({UP: torch.tensor(1.0)}), "bad-shape"),
    "three dimensions": (lambda t: t.update({DOWN: torch.ones(2, 4, 4)}), "bad-shape"),
    "an up factor with a kernel": (lambda t: t.update({UP: torch.ones(16, 2, 3, 3)}), "bad-shape"),
    "an alpha that is a matrix": (lambda t: t.update({f"{MODULE}.alpha": torch.ones(2, 2)}), "bad-shape"),
    "whole numbers for a factor": (lambda t: t.update({UP: torch.ones(16, 2).int()}), "bad-dtype"),
    "a rank far above the width": (
        lambda t: t.update({UP: torch.ones(16, 65), DOWN: torch.ones(65, 16)}),
        "rank-too-large",
    ),
    "a rank of a million": (
        lambda t: t.update({UP: narrow(torch.ones(4, 10**6)), DOWN: narrow(torch.ones(10**6, 4))}),
        "rank-too-large",
    ),
    "one NaN at the very end": (lambda t: t[max(t)].reshape(-1)[-1:].fill_(torch.nan), "non-finite"),
    "one infinity": (lambda t: t[DOWN].reshape(-1)[:1].fill_(torch.inf), "non-finite"),
    "an infinite alpha": (lambda t: t.update({f"{MODULE}.alpha": torch.tensor(torch.inf)}), "non-finite"),
    "a number beyond float32": (
        lambda t: t.update({DOWN: torch.full((2, 16), 1e300, dtype=torch.float64)}),
        "non-finite",
    ),
    "nothing but zeros": (lambda t: [tensor.zero_() for name, tensor in t.items() if "up" in name], "all-zero"),
    "one module in two spellings": (
        lambda t: t.update(
            {
                f"lora_te{prefix}_text_model_encoder_layers_0_mlp_fc1.lora_{side}.weight": torch.ones(shape)
                for prefix in ("", "1")
                for side, shape in (("down", (2, 12)), ("up", (48, 2)))
            }
        ),
        "duplicate-tensor",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_file_is_refused_for_its_own_reason(what: str, tensors: Tensors, tmp_path: Path) -> None:
    spoil, reason = SPOILT[what]
    spoil(tensors)

    with pytest.raises(BadFile) as raised:
        read(tensors, tmp_path)

    assert raised.value.reason == reason


@pytest.mark.parametrize("position", range(20))
def test_a_single_nan_is_found_wherever_it_is(position: int, tensors: Tensors, tmp_path: Path) -> None:
    names = sorted(name for name in tensors if "lora_" in name.rpartition(".")[0])
    tensor = tensors[names[position * len(names) // 20]].reshape(-1)
    tensor[position * len(tensor) // 20] = torch.nan

    with pytest.raises(BadFile, match="NaN") as raised:
        read(tensors, tmp_path)

    assert raised.value.reason == "non-finite"


FOREIGN = {"lambda_layer": "t_lora", "b1.weight": "glora", "vera_lambda_b": "VeRA", "road_theta": "RoAd"}


@pytest.mark.parametrize("role", FOREIGN)
def test_an_algorithm_that_nothing_moves_is_refused_by_its_name(role: str, tensors: Tensors, tmp_path: Path) -> None:
    tensors[f"{MODULE}_other.{role}"] = torch.ones(16, 1)

    with pytest.raises(Unsupported, match=FOREIGN[role]) as raised:
        read(tensors, tmp_path)

    assert raised.value.reason == "unsupported-algorithm"


NAMES: dict[str, tuple[list[str], str]] = {
    "a plain model": (["layers.0.weight", "layers.0.bias"], "unsupported-algorithm"),
    "an embedding": (["emb_params"], "unsupported-algorithm"),
    "an SDXL embedding": (["clip_l", "clip_g"], "unsupported-algorithm"),
    "a full checkpoint": (["model.diffusion_model.input_blocks.0.0.weight"], "unsupported-algorithm"),
    "two dialects": ([UP, DOWN, "unet.conv_in.lora_A.weight"], "unknown-tensor"),
    "something beside": ([UP, DOWN, "note"], "unknown-tensor"),
    "a stray role": ([UP, DOWN, f"{MODULE}.gate"], "unknown-tensor"),
}


@pytest.mark.parametrize("what", NAMES)
def test_names_that_are_not_understood_are_refused_never_dropped(what: str, tmp_path: Path) -> None:
    names, reason = NAMES[what]

    with pytest.raises(Unsupported) as raised:
        read({name: torch.ones(2, 2) for name in names}, tmp_path)

    assert raised.value.reason == reason


def test_one_unknown_module_among_many_is_refused(tmp_path: Path) -> None:
    tensors = kohya_tensors(random_adapter(BASE))
    tensors |= {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(2, 2) for side in ("up", "down")}

    with pytest.raises(Unsupported, match="lora_unet_nowhere") as raised:
        read(tensors, tmp_path)

    assert raised.value.reason == "unknown-tensor"


def test_one_module_of_the_wrong_shape_among_many_is_refused(tmp_path: Path) -> None:
    tensors = kohya_tensors(random_adapter(BASE))
    tensors |= {DOWN: torch.ones(2, 17), UP: torch.ones(16, 2)}

    with pytest.raises(BadFile, match="16x17") as raised:
        read(tensors, tmp_path)

    assert raised.value.reason == "bad-shape"


def test_the_limit_on_ranks_can_be_moved(tmp_path: Path) -> None:
    tensors = {UP: torch.ones(16, 24), DOWN: torch.ones(24, 16)}

    assert read(tensors, tmp_path).ranks() == (24,)
    with pytest.raises(BadFile):
        read(tensors, tmp_path, limits=ReadLimits(rank_to_width=1))
    with pytest.raises(BadFile, match="at most 20"):
        read(tensors, tmp_path, limits=ReadLimits(rank=20))


@pytest.mark.parametrize("name", ["bold.pt", "bold.ckpt", "x/adapter_model.bin"])
def test_a_blob_is_refused_by_the_name_its_user_knows(name: str, tensors: Tensors, tmp_path: Path) -> None:
    blob = tmp_path / "ab12"
    write_weight_file(blob, tensors)

    with pytest.raises(BadFile) as raised:
        read_adapter(AdapterFiles(blob, name=name), candidates=[BASE])

    assert (raised.value.reason, raised.value.where) == ("pickle", name)


def test_a_missing_file_has_a_reason_too(tmp_path: Path) -> None:
    with pytest.raises(BadFile) as raised:
        read_adapter(AdapterFiles(tmp_path / "gone.safetensors", name="gone"), candidates=[BASE])

    assert raised.value.reason == "missing-weights"


def write_peft(folder: Path, config: object) -> AdapterFiles:
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"base_model.model.{path}.lora_A.weight": torch.ones(4, 16),
        f"base_model.model.{path}.lora_B.weight": torch.ones(16, 4),
    }
    folder.mkdir()
    write_weight_file(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return AdapterFiles(folder / "adapter_model.safetensors", folder / "adapter_config.json", "thin")


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 99, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {".*mid.*to_q": 2, "to_q": 1}}, 0.5),
    ],
)
def test_the_strength_of_a_peft_folder_is_in_its_configuration(
    config: dict[str, object], scale: float, tmp_path: Path
) -> None:
    adapter = read_adapter(write_peft(tmp_path / "thin", config), candidates=[BASE])

    assert adapter.dialect == "peft"
    assert adapter.updates[SITE].scale == scale


def test_a_peft_file_without_its_configuration_is_refused(tmp_path: Path) -> None:
    files = write_peft(tmp_path / "thin", {})

    for broken in (replace(files, config=None), replace(files, config=tmp_path / "gone.json")):
        with pytest.raises(BadFile) as raised:
            read_adapter(broken, candidates=[BASE])
        assert (raised.value.reason, raised.value.where) == ("bad-config", "thin")


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({}, 1.0),
        ({"unet.lora_alpha": 8, "unet.r": 2}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_the_strength_of_a_diffusers_file_is_in_its_header(
    metadata: dict[str, object], scale: float, tmp_path: Path
) -> None:
    tensors = {f"{SITE.component}.{SITE.path}.lora_{side}.weight": torch.ones(2, 16) for side in "A"}
    tensors |= {f"{SITE.component}.{SITE.path}.lora_B.weight": torch.ones(16, 2)}
    header = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else {}

    assert read(tensors, tmp_path, metadata=header).updates[SITE].scale == scale


def test_a_broken_header_configuration_is_refused(tmp_path: Path) -> None:
    tensors = {
        f"unet.{SITE.path}.lora_A.weight": torch.ones(2, 16),
        f"unet.{SITE.path}.lora_B.weight": torch.ones(16, 2),
    }

    with pytest.raises(BadFile) as raised:
        read(tensors, tmp_path, metadata={"lora_adapter_metadata": "{"})

    assert raised.value.reason == "bad-config"


def test_reading_twice_gives_the_same_and_changes_nothing(tmp_path: Path) -> None:
    path = write_kohya(tmp_path / "bold.safetensors", random_adapter(BASE))
    before = sha256_file(path)

    first, second = (read_adapter(AdapterFiles(path), candidates=[BASE]) for _ in range(2))

    assert all(torch.equal(update.up, second.updates[site].up) for site, update in first.updates.items())
    assert sha256_file(path) == before


def test_a_file_cut_at_any_place_is_refused(tmp_path: Path) -> None:
    content = write_kohya(tmp_path / "bold.safetensors", random_adapter(BASE, match="mid_block")).read_bytes()
    cut = tmp_path / "cut.safetensors"

    for size in range(0, len(content), 997):
        cut.write_bytes(content[:size])
        with pytest.raises(BadFile) as raised:
            read_adapter(AdapterFiles(cut), candidates=[BASE])
        assert raised.value.reason in {"truncated", "empty-file"}


@pytest.mark.parametrize("trouble", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_tried_again_later(
    trouble: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kohya(tmp_path / "bold.safetensors", random_adapter(BASE))

    def no_memory(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(torch, "empty", no_memory)

    with pytest.raises(TryLater) as raised:
        read_adapter(AdapterFiles(path, name="bold"), candidates=[BASE])
    assert (raised.value.reason, raised.value.where) == ("out-of-memory", "bold")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", ""),
        ("mid_block.resnets.0.time_emb_proj", "unsupported-algorithm"),
    ],
)
def test_factors_of_outputs_are_refused_on_a_layer_whose_bias_they_would_scale_too(
    path: str, reason: str, tmp_path: Path
) -> None:
    config = {"peft_type": "IA3", "target_modules": [path], "feedforward_modules": []}
    write_weight_file(
        tmp_path / "adapter_model.safetensors", {f"base_model.model.{path}.ia3_l": torch.full((16, 1), 1.5)}
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    files = AdapterFiles(tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json", "scaled")

    if not reason:
        assert read_adapter(files, candidates=[BASE]).algorithms == ("ia3",)
    else:
        with pytest.raises(Unsupported, match="bias") as raised:
            read_adapter(files, candidates=[BASE])
        assert raised.value.reason == reason
