"""What changes a weight by an amount that depends on it: DoRA on both axes, IA3, rotations, spectral shifts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter
from tests.lorax.in_the_wild.twins import kohya, lora, noise
from tests.lorax.in_the_wild.wild import Wild, base, site

# proj_in of SD1 is a 1x1 convolution, conv1 and the downsampler are 3x3, to_q is linear.
LINEAR = (
    "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
)
CONV = ("down_blocks_0_resnets_0_conv1", "down_blocks.0.resnets.0.conv1")
DOWN = ("down_blocks_0_downsamplers_0_conv", "down_blocks.0.downsamplers.0.conv")
ONE = ("down_blocks_0_attentions_0_proj_in", "down_blocks.0.attentions.0.proj_in")
LYCORIS = {"ss_network_module": "lycoris.kohya"}


def change(adapter: Adapter, path: str, weight: Tensor | None = None) -> Tensor:
    return adapter.updates[site(path)].dense(weight)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# -- DoRA -------------------------------------------------------------------------------------------------------------
def dora(weight: Tensor, delta: Tensor, magnitude: Tensor, *, per_output: bool) -> Tensor:
    """Gives m * (W + dW) / ||W + dW|| - W, with the norm over all axes but one, in double precision."""
    moved = (weight + delta).double()
    kept = 0 if per_output else 1
    axes = [axis for axis in range(moved.ndim) if axis != kept]
    norm = moved.square().sum(dim=axes, keepdim=True).sqrt()
    return (magnitude.double().reshape(norm.shape) * moved / norm - weight.double()).float()


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize("where", [LINEAR, CONV, ONE])
def test_the_shape_of_a_magnitude_of_kohya_tells_its_axis(
    where: tuple[str, str], wild: Wild, *, per_output: bool
) -> None:
    shape = base("sd1.5").sites[site(where[1])]
    module, kernel = f"lora_unet_{where[0]}", shape.kernel or ()
    tensors = lora(module, shape.out_features, shape.in_features, 4, alpha=2, kernel=kernel)
    ones = (1,) * len(kernel)
    size = (shape.out_features, 1, *ones) if per_output else (1, shape.in_features, *ones)
    tensors[f"{module}.dora_scale"] = magnitude = noise("m", *size).abs() + 1
    weight = noise("weight", *shape.weight_shape)

    adapter = wild.read(tensors, ["sd1.5"])

    up, down = (tensors[f"{module}.lora_{side}.weight"].flatten(1) for side in ("up", "down"))
    delta = 0.5 * (up @ down).reshape(shape.weight_shape)
    assert adapter.algorithms == ("dora",)
    close(change(adapter, where[1], weight), dora(weight, delta, magnitude, per_output=per_output))


@pytest.mark.parametrize(
    ("ending", "shape"),
    [
        (".lora_magnitude_vector", (640,)),
        (".lora_magnitude_vector.weight", (640,)),
        (".lora_magnitude_vector.default.weight", (640,)),
    ],
)
def test_a_magnitude_of_peft_is_per_output(ending: str, shape: tuple[int, ...], wild: Wild) -> None:
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    module = f"unet.{path}"
    tensors = {f"{module}.lora_A.weight": noise("a", 4, 640), f"{module}.lora_B.weight": noise("b", 640, 4)}
    tensors[module + ending] = magnitude = noise("m", *shape).abs()
    weight = noise("weight", 640, 640)

    adapter = wild.read(tensors, ["sd1.5"])

    delta = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
    close(change(adapter, path, weight), dora(weight, delta, magnitude, per_output=True))


def test_a_magnitude_of_a_square_convolution_in_pefts_shape_is_per_output(wild: Wild) -> None:
    module = f"unet.{CONV[1]}"
    tensors = lora(module, 320, 320, 4, ends=(".lora_A.weight", ".lora_B.weight"), kernel=(3, 3))
    tensors[f"{module}.lora_magnitude_vector"] = magnitude = noise("m", 1, 320, 1, 1).abs()
    weight = noise("weight", 320, 320, 3, 3)

    adapter = wild.read(tensors, ["sd1.5"])

    delta = torch.einsum(
        "or,rikl->oikl", tensors[f"{module}.lora_B.weight"][:, :, 0, 0], tensors[f"{module}.lora_A.weight"]
    )
    close(change(adapter, CONV[1], weight), dora(weight, delta, magnitude, per_output=True))


@pytest.mark.parametrize("per_output", [True, False])
def test_a_magnitude_of_onetrainer_may_be_per_input(wild: Wild, *, per_output: bool) -> None:
    module = "lora_transformer_transformer_blocks_3_attn_to_q"
    tensors = kohya(module, 3072, 3072, 2, alpha=1)
    size = (3072, 1) if per_output else (1, 3072)
    tensors[f"{module}.dora_scale"] = magnitude = noise("m", *size).abs()
    weight = noise("weight", 3072, 3072)

    adapter = wild.read(tensors, ["flux1-dev"], {"ot_branch": "master"})

    up, down = (tensors[f"{module}.lora_{side}.weight"] for side in ("up", "down"))
    update = adapter.updates[site("transformer_blocks.3.attn.to_q", "transformer")]
    moved = weight + 0.5 * up @ down
    norm = moved.norm(dim=1 if per_output else 0, keepdim=True)
    torch.testing.assert_close(update.dense(weight), magnitude * moved / norm - weight, rtol=1e-3, atol=1e-3)


def test_ai_toolkits_magnitude_is_per_output(wild: Wild) -> None:
    module = "transformer.transformer_blocks.3.attn.to_q"
    tensors = lora(module, 3072, 3072, ends=(".lora_A.weight", ".lora_B.weight"))
    tensors[f"{module}.magnitude"] = noise("m", 3072).abs()

    adapter = wild.read(tensors, ["flux1-dev"], {"software": '{"name": "ai-toolkit"}'})

    update = adapter.updates[site("transformer_blocks.3.attn.to_q", "transformer")]
    assert update.algorithm == "dora"
    assert getattr(update, "per_output", None) is True


def test_dora_of_a_fused_weight_is_cut_by_rows(wild: Wild) -> None:
    module = "lora_unet_double_blocks_3_img_attn_qkv"
    tensors = kohya(module, 9216, 3072, 2, alpha=2) | {f"{module}.dora_scale": noise("m", 9216, 1).abs()}

    adapter = wild.read(tensors, ["flux1-dev"])

    update = adapter.updates[site("transformer_blocks.3.attn.to_k", "transformer")]
    weight = noise("w", 3072, 3072)
    up, down = (tensors[f"{module}.lora_{side}.weight"] for side in ("up", "down"))
    delta = up[3072:6144] @ down
    expected = dora(weight, delta, tensors[f"{module}.dora_scale"][3072:6144], per_output=True)
    torch.testing.assert_close(update.dense(weight), expected, rtol=1e-3, atol=1e-3)


# -- what multiplies or rotates ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("on_input", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_ia3_of_lycoris_adds_to_one(wild: Wild, *, on_input: bool, flat: bool) -> None:
    module = f"lora_unet_{LINEAR[0]}"
    size = 768 if on_input else 640
    numbers = noise("ia3", size) if flat else noise("ia3", *((1, size) if on_input else (size, 1)))
    tensors = {f"{module}.weight": numbers, f"{module}.on_input": torch.tensor(on_input)}
    weight = noise("weight", 640, 768)

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    assert adapter.algorithms == ("ia3",)
    close(change(adapter, LINEAR[1], weight), weight * numbers.reshape((1, -1) if on_input else (-1, 1)))


def cayley(blocks: Tensor) -> Tensor:
    """(I + Q)(I - Q)^-1 of the skew part, by an explicit inverse."""
    skew = blocks - blocks.mT
    unit = torch.eye(blocks.shape[-1])
    return (unit + skew) @ torch.linalg.inv(unit - skew)


@pytest.mark.parametrize("bound", [0.0, 1e-4])
@pytest.mark.parametrize("module_name", ["networks.oft", "lycoris.kohya"])
def test_oft_rotates_blocks_of_outputs_by_no_more_than_its_bound(bound: float, module_name: str, wild: Wild) -> None:
    module = f"lora_unet_{LINEAR[0]}"
    blocks = noise("oft", 8, 80, 80) * 0.02
    tensors = {f"{module}.oft_blocks": blocks, f"{module}.alpha": torch.tensor(bound)}
    weight = noise("weight", 640, 768)

    adapter = wild.read(tensors, ["sd1.5"], {"ss_network_module": module_name})

    skew = blocks - blocks.mT
    limit = bound * 640
    length = float(skew.norm())
    bounded = blocks * (limit / length) if 0 < limit < length else blocks
    rotated = torch.einsum("kmn,kmi->kni", cayley(bounded), weight.reshape(8, 80, 768)).reshape(640, 768)
    assert adapter.algorithms == ("oft",)
    assert not adapter.notes
    close(change(adapter, LINEAR[1], weight), rotated - weight)


def test_packed_oft_of_onetrainer_rotates_inputs(wild: Wild) -> None:
    module = "lora_transformer_transformer_blocks_3_attn_to_q"
    tensors = {f"{module}.oft_R.weight": noise("r", 96, 32 * 31 // 2) * 0.01}

    adapter = wild.read(tensors, ["flux1-dev"], {"ot_branch": "master"})

    weight = noise("w", 3072, 3072)
    change_ = adapter.updates[site("transformer_blocks.3.attn.to_q", "transformer")].dense(weight)
    moved = (weight + change_).reshape(3072, 96, 32)
    # A rotation keeps the length of every row of a block, up to the fifth power of small angles.
    torch.testing.assert_close(moved.norm(dim=2), weight.reshape(3072, 96, 32).norm(dim=2), rtol=1e-2, atol=1e-2)
    assert float(change_.norm()) > 0.01 * float(weight.norm())


def test_svdiff_shifts_the_singular_values_of_the_base_and_never_below_zero(wild: Wild) -> None:
    tensors = {f"{LINEAR[1]}.delta": noise("s", 640) * 30, f"{CONV[1]}.delta": noise("t", 320)}
    weight = noise("weight", 640, 768)

    adapter = wild.read(tensors, ["sd1.5"])

    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    shifted = (values + tensors[f"{LINEAR[1]}.delta"]).clamp(min=0)
    assert bool((shifted == 0).any())
    assert adapter.algorithms == ("svdiff",)
    torch.testing.assert_close(
        change(adapter, LINEAR[1], weight), left @ torch.diag(shifted) @ right - weight, rtol=1e-3, atol=1e-3
    )
