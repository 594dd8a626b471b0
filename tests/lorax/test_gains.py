"""DoRA stays DoRA: its factors go through the plan, its gains stay with their channels, m is that of the new base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, Update
from lorax.algorithms.dora import DoRA
from lorax.algorithms.loha import LoHa
from lorax.convert import Conversion, convert_adapters
from lorax.gains import GAIN_CARRIED, CarriedGains, carried_gains, split_gains, with_gains
from lorax.lowering import lower_adapter
from lorax.method import Term
from lorax.operators import Dense, Identity, Operator, Scaling, SignedPermutation
from lorax.plan import Plan, PlanHead, PlannedSite
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import small_base

SOURCE, TARGET = small_base("small-v1"), small_base("small-v2", labels=["examples/small-v2"])
QUERY = Site("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
WIDER = Site("unet", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj")
CONV = Site("unet", "mid_block.resnets.0.conv1")
SITES = (QUERY, WIDER, CONV)
KEEP = Term(Identity(), Identity())


def noise(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def here(site: Site) -> Tensor:
    shape = SOURCE.sites[site]
    return noise(*shape.weight_shape, seed=len(site.path)) / shape.columns**0.5


def there(site: Site) -> Tensor:
    weight = here(site)
    return weight + 0.1 * noise(*weight.shape, seed=5) / SOURCE.sites[site].columns ** 0.5


def trained(site: Site, *, per_output: bool = True, rank: int = 3) -> DoRA:
    """Returns a DoRA whose gains lie around one, as training leaves them."""
    shape = SOURCE.sites[site]
    up, down = noise(shape.out_features, rank, seed=2), noise(rank, shape.columns, seed=3)
    inner = LowRank(up / shape.out_features, down, 0.5, shape.kernel)
    gains = 1 + 0.05 * noise(shape.out_features if per_output else shape.in_features, seed=4)
    return DoRA.of_gain(inner, gains, here(site), per_output=per_output)


def adapter_of(updates: dict[Site, Update], dialect: str = "lycoris") -> Adapter:
    verdict = BaseVerdict(SOURCE.name, SOURCE.family, SOURCE.version)
    algorithms = tuple(sorted({update.algorithm for update in updates.values()}))
    return Adapter(updates, dialect, algorithms, torch.float32, {}, (), verdict, "0" * 64)


def planned(*terms: tuple[Site, Site, Term]) -> Plan:
    head = PlanHead("key", "copy", {}, SOURCE, TARGET)
    return Plan(head, tuple(PlannedSite(target, source, term) for target, source, term in terms))


COPY = planned(*((site, site, KEEP) for site in SITES))


def moved(
    adapter: Adapter, plan: Plan = COPY, *, dialect: str = "lycoris", weight: Callable[[Site], Tensor] = there
) -> tuple[Conversion, CarriedGains]:
    """Returns the conversion as all that convert make it."""
    carried = carried_gains(adapter, plan, dialect)
    split = split_gains(adapter, carried, here)
    (found,) = convert_adapters(plan, [lower_adapter(split.adapter, here).adapter])
    assert isinstance(found, Conversion)
    return with_gains(found, split, weight), carried


def dora_at(adapter: Adapter, site: Site) -> DoRA:
    update = adapter.updates[site]
    assert isinstance(update, DoRA)
    return update


@pytest.mark.parametrize("per_output", [True, False], ids=["per output", "per input"])
def test_between_a_base_and_itself_a_dora_comes_back(*, per_output: bool) -> None:
    source = adapter_of({site: trained(site, per_output=per_output) for site in SITES})

    conversion, _ = moved(source, weight=here)

    assert conversion.adapter.algorithms == ("dora",)
    for site in SITES:
        before, after = dora_at(source, site), dora_at(conversion.adapter, site)
        assert after.per_output is per_output
        assert after.inner.low_rank().rank == 3
        torch.testing.assert_close(after.magnitude, before.magnitude)
        torch.testing.assert_close(after.dense(here(site)), before.dense(here(site)), rtol=1e-5, atol=1e-5)


def test_on_a_later_checkpoint_each_channel_has_the_gain_that_was_trained_and_not_the_length() -> None:
    source = adapter_of({site: trained(site) for site in SITES})

    conversion, _ = moved(source)

    for site in SITES:
        before, after = dora_at(source, site), dora_at(conversion.adapter, site)
        gain, weight = before.gain(here(site)), there(site)
        wanted = (gain - 1) * weight + gain * before.inner.dense()
        torch.testing.assert_close(after.dense(weight), wanted, rtol=1e-5, atol=1e-5)
        # Copied as they are, the lengths would undo what the target's own training made of them.
        copied = DoRA(before.inner, before.magnitude, per_output=True).dense(weight)
        assert float((copied - wanted).norm()) > 0.005 * float(wanted.norm())


def test_the_report_names_the_sites_whose_gains_were_carried() -> None:
    plain = trained(QUERY).inner

    conversion, carried = moved(adapter_of({QUERY: plain, WIDER: trained(WIDER)}))

    assert carried.homes == {WIDER: (WIDER,)}
    assert {report.site: report.reason for report in conversion.sites} == {str(QUERY): "", str(WIDER): GAIN_CARRIED}
    assert conversion.adapter.algorithms == ("dora", "lora")
    assert carried.named("0" * 64) != "0" * 64
    assert CarriedGains({}).named("0" * 64) == "0" * 64


def test_the_factors_go_through_the_operators_and_the_gain_does_not() -> None:
    inward = Dense(noise(16, 16, seed=8))
    plan = planned((QUERY, QUERY, Term(Scaling(torch.tensor([0.5])), inward)))
    source = trained(QUERY)

    conversion, _ = moved(adapter_of({QUERY: source}), plan)

    found = dora_at(conversion.adapter, QUERY)
    torch.testing.assert_close(found.inner.dense(), 0.5 * source.inner.dense() @ inward.matrix.mT)
    torch.testing.assert_close(found.gain(there(QUERY)), source.gain(here(QUERY)))


def test_what_feeds_two_homes_has_its_gain_at_both() -> None:
    key = Site("unet", QUERY.path.replace("to_q", "to_k"))
    plan = planned((QUERY, QUERY, KEEP), (key, QUERY, KEEP))
    weights = {QUERY: here(QUERY), key: noise(16, 16, seed=9)}

    conversion, _ = moved(adapter_of({QUERY: trained(QUERY)}), plan, weight=weights.__getitem__)

    for site, weight in weights.items():
        torch.testing.assert_close(dora_at(conversion.adapter, site).gain(weight), trained(QUERY).gain(here(QUERY)))


def test_a_dora_of_another_algorithms_factors_keeps_its_gain_with_the_exact_factors() -> None:
    shape = SOURCE.sites[WIDER]
    sides = noise(128, 2, seed=1), noise(2, 16, seed=2), noise(128, 2, seed=3) / 50, noise(2, 16, seed=4)
    inner = LoHa(*sides, 1.0, shape)
    source = DoRA.of_gain(inner, 1 + 0.05 * noise(128, seed=5), here(WIDER), per_output=True)

    conversion, _ = moved(adapter_of({WIDER: source}), weight=here)

    found = dora_at(conversion.adapter, WIDER)
    assert isinstance(found.inner, LowRank)
    assert found.inner.rank == 4
    torch.testing.assert_close(found.dense(here(WIDER)), source.dense(here(WIDER)), rtol=1e-5, atol=1e-5)


MIXING = torch.linalg.qr(noise(16, 16, seed=6)).Q


@pytest.mark.parametrize(
    ("output", "stays"),
    [
        (Dense(torch.eye(16) + 0.1 * noise(16, 16, seed=7)), True),
        (Dense(MIXING), False),
        (Dense(-torch.eye(16)), False),
        (SignedPermutation(torch.arange(16).roll(1).int(), torch.ones(16)), False),
    ],
    ids=["nearly the identity", "a rotation", "turned round", "another order"],
)
def test_gains_are_carried_only_where_the_plan_leaves_channels_in_place(output: Operator, *, stays: bool) -> None:
    plan = planned((QUERY, QUERY, Term(output, Identity())))
    source = adapter_of({QUERY: trained(QUERY)})

    conversion, carried = moved(source, plan)

    assert bool(carried.homes) is stays
    assert isinstance(conversion.adapter.updates[QUERY], DoRA if stays else LowRank)
    if not stays:
        (lowered,) = convert_adapters(plan, [lower_adapter(source, here).adapter])
        assert isinstance(lowered, Conversion)
        assert torch.equal(conversion.adapter.updates[QUERY].dense(), lowered.adapter.updates[QUERY].dense())


def test_gains_per_input_need_inputs_that_stay_in_place() -> None:
    source = adapter_of({QUERY: trained(QUERY, per_output=False)})
    turned = planned((QUERY, QUERY, Term(Identity(), Dense(MIXING))))
    inputs_stay = planned((QUERY, QUERY, Term(Dense(MIXING), Identity())))

    assert not carried_gains(source, turned, "lycoris").homes
    assert carried_gains(source, inputs_stay, "lycoris").homes == {QUERY: (QUERY,)}


def test_a_home_of_another_width_gets_no_gain() -> None:
    plan = planned((WIDER, QUERY, Term(Dense(noise(128, 16, seed=7)), Identity())))

    assert not carried_gains(adapter_of({QUERY: trained(QUERY)}), plan, "lycoris").homes


def test_a_dialect_without_a_word_for_dora_gets_lora() -> None:
    conversion, carried = moved(adapter_of({QUERY: trained(QUERY)}), dialect="kohya")

    assert not carried.homes
    assert conversion.adapter.algorithms == ("lora",)


@pytest.mark.parametrize("dialect", ["peft", "diffusers"])
def test_peft_has_a_magnitude_everywhere_or_nowhere_and_one_that_changes_nothing_is_added(
    dialect: str, tmp_path: Path
) -> None:
    plain = trained(QUERY).inner

    conversion, _ = moved(adapter_of({QUERY: plain, WIDER: trained(WIDER)}), dialect=dialect)

    torch.testing.assert_close(conversion.adapter.updates[QUERY].dense(there(QUERY)), plain.dense(), atol=1e-6, rtol=0)
    assert written(conversion.adapter, tmp_path, dialect).algorithms == ("dora",)
    per_input = adapter_of({QUERY: trained(QUERY, per_output=False)})
    assert not carried_gains(per_input, COPY, dialect).homes


def test_a_token_table_beside_it_leaves_peft_no_way_to_say_dora() -> None:
    table = next(iter(TARGET.tables))
    shape = TARGET.tables[table]
    rows = LowRank(noise(shape.out_features, 2, seed=1), noise(2, shape.in_features, seed=2), 1.0)
    source = adapter_of({table: rows, QUERY: trained(QUERY)})
    plan = planned((QUERY, QUERY, KEEP), (table, table, KEEP))

    assert not carried_gains(source, plan, "peft").homes


def test_without_the_weights_of_its_base_nothing_is_taken_apart() -> None:
    source = adapter_of({QUERY: trained(QUERY)})

    split = split_gains(source, carried_gains(source, COPY, "lycoris"), None)

    assert split.adapter is source
    assert not split.gains


def written(adapter: Adapter, folder: Path, dialect: str) -> Adapter:
    """Returns an adapter as it is read back from its files."""
    weights, *rest = write_adapter(adapter, folder, dialect=dialect, base=TARGET, stem="style", metadata={})
    return read_adapter(AdapterFiles(weights, rest[0] if rest else None, weights.name), candidates=[TARGET])


@pytest.mark.parametrize(("dialect", "dtype"), [("peft", torch.float32), ("diffusers", torch.float16),
                                                ("lycoris", torch.float16), ("lycoris", torch.bfloat16)])  # fmt: skip
def test_a_converted_dora_is_written_and_read_as_dora(dialect: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = replace(adapter_of({site: trained(site) for site in SITES}), dtype=dtype)
    conversion, _ = moved(source, dialect=dialect)

    back = written(conversion.adapter, tmp_path, dialect)

    assert back.algorithms == ("dora",)
    for site in SITES:
        meant, weight = conversion.adapter.updates[site].dense(there(site)), there(site)
        found = back.updates[site].dense(weight)
        rounding = torch.finfo(dtype).eps * float(weight.norm())
        assert float((found - meant).norm()) <= max(rounding, 1e-5)


class _Holder(nn.Module):
    """A model of nothing but the layers that are patched, by their own paths."""

    def __init__(self) -> None:
        super().__init__()
        for site in SITES:
            shape = TARGET.sites[site]
            *path, leaf = site.path.split(".")
            holder: nn.Module = self
            for name in path:
                if not hasattr(holder, name):
                    holder.add_module(name, nn.Module())
                holder = holder.get_submodule(name)
            linear = nn.Linear(shape.in_features, shape.out_features, bias=False)
            layer = nn.Conv2d(shape.in_features, shape.out_features, 3, bias=False) if shape.kernel else linear
            layer.weight.data = there(site)
            holder.add_module(leaf, layer)


def test_peft_makes_the_same_weights_of_a_converted_dora(tmp_path: Path) -> None:
    from peft import PeftModel

    conversion, _ = moved(adapter_of({site: trained(site) for site in SITES}), dialect="peft")
    write_adapter(conversion.adapter, tmp_path, dialect="peft", base=TARGET, stem="style", metadata={})

    model = PeftModel.from_pretrained(_Holder(), tmp_path).merge_and_unload()

    for site in SITES:
        change = model.get_submodule(site.path).weight.detach() - there(site)
        meant = conversion.adapter.updates[site].dense(there(site))
        assert float(meant.norm()) > 0
        torch.testing.assert_close(change, meant, rtol=1e-4, atol=1e-5)
