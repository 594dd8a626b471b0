from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from catalogs.report_charts import comparison_chart, distribution_chart, similarity_chart
from catalogs.report_data import AdapterRow, Measured, PairSimilarity, SiteSimilarity

SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, gain: float | None, *, state: str = "published", copy: float = 0.2) -> AdapterRow:
    figures = {
        "converted": {"divergence_gain": Measured(gain, None if gain is None else gain - 0.1, gain)},
        "copy": {"divergence_gain": Measured(copy)},
    }
    return AdapterRow(name, f"{name}.safetensors", state, "gate-passed", figures=figures)


def words(svg: str) -> list[str]:
    """Returns the label of each mark, after checking that the drawing is well-formed."""
    return [label for node in ET.fromstring(svg).iter() if (label := node.get("aria-label"))]  # noqa: S314


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_each_adapter_is_a_dot_that_says_its_figures() -> None:
    svg = distribution_chart([row("Bold", 0.91), row("Faint", 0.2, state="rejected")], 0.5)

    assert "Bold, converted: 0.91 (0.81 to 0.91)" in words(svg)
    assert "Faint, plain copy: 0.20" in words(svg)
    assert {"gate 0.5", "converted", "plain copy"} <= set(texts(svg))
    assert "random" not in texts(svg)


def test_passing_and_failing_dots_have_their_own_colours() -> None:
    assert "var(--warn)" not in distribution_chart([row("Bold", 0.91)], None)
    assert "var(--warn)" in distribution_chart([row("Faint", 0.1, state="rejected")], None)


def test_adapters_are_compared_best_first() -> None:
    svg = comparison_chart([row("Worse", 0.3), row("Best", 0.9), row("Unscored", None)], 0.5)

    shown = [text for text in texts(svg) if text in ("Worse", "Best", "Unscored")]
    assert shown == ["Best", "Worse"]


def test_two_adapters_of_one_name_get_two_lines() -> None:
    other = AdapterRow("Bold", "copy/bold.safetensors", "published", "", figures=row("x", 0.4).figures)

    assert (
        len([text for text in texts(comparison_chart([row("Bold", 0.9), other], None)) if text.startswith("Bold")]) == 2
    )


def test_values_far_below_are_drawn_at_the_edge() -> None:
    svg = distribution_chart([row("Bold", 0.9, copy=-250.0)], 0.5)

    assert "Bold, plain copy: -250.00" in words(svg)
    assert "-250" not in "".join(texts(svg))


@pytest.mark.parametrize("rows", [[], [row("Bold", None)]])
def test_without_figures_there_is_no_chart(rows: list[AdapterRow]) -> None:
    assert distribution_chart(rows, 0.5) == ""
    assert comparison_chart(rows, 0.5) == ""


def test_a_strip_has_a_cell_per_site_and_measure_and_names_the_blocks() -> None:
    sites = [
        SiteSimilarity(f"unet:down_blocks.{number // 4}.attn.to_q.{number}", 0.25, 0.5, 1.25) for number in range(8)
    ]
    sites.append(SiteSimilarity("text_encoder:text_model.encoder.layers.0.q_proj", 1.5, -0.2, 0.1))
    svg = similarity_chart(PairSimilarity("a", "b", tuple(sites)), prefix="s")

    cells = [label for label in words(svg) if " alike" in label and ":" in label]
    assert len(cells) == 27
    assert "unet:down_blocks.0.attn.to_q.0: weights 0.75 alike" in cells
    assert "text_encoder:text_model.encoder.layers.0.q_proj: outputs 0.00 alike" in cells
    assert {"down 0", "down 1"} <= set(texts(svg))
    assert similarity_chart(PairSimilarity("a", "b", ()), prefix="s") == ""


def test_sites_stand_in_the_order_of_the_network_and_small_parts_go_unnamed() -> None:
    blocks = ["conv_out", "up_blocks.0", "mid_block", "down_blocks.1", "down_blocks.0", "time_embedding", "conv_in"]
    sites = [
        SiteSimilarity(f"unet:{block}.{number}", 0.1, 0.9, 0.9)
        for block in blocks
        for number in range(2 if "blocks" not in block else 60)
    ]
    svg = similarity_chart(PairSimilarity("a", "b", tuple(sites)), prefix="s")

    first = dict.fromkeys(label.split(":")[1].rsplit(".", 1)[0] for label in words(svg) if " alike" in label)
    assert list(first) == [
        *("conv_in", "time_embedding", "down_blocks.0", "down_blocks.1"),
        *("mid_block", "up_blocks.0", "conv_out"),
    ]
    assert [text for text in texts(svg) if text.split()[0] in ("conv", "time", "down", "mid", "up")] == [
        *("down 0", "down 1", "up 0")
    ]


def test_a_name_full_of_markup_stays_text() -> None:
    name = "<script>alert(1)</script>&\"'"
    svg = comparison_chart([row(name, 0.9)], 0.5)

    assert "<script" not in svg
    assert any(label.startswith(f"{name}, converted") for label in words(svg))


def test_ids_of_two_charts_on_one_page_never_meet() -> None:
    pair = PairSimilarity("a", "b", (SiteSimilarity("unet:mid_block.to_q", 0.1, 0.9, 0.9),))
    both = [similarity_chart(pair, prefix=prefix) for prefix in ("one", "two")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in both]

    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip(both, ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= own


def test_charts_take_colours_and_type_from_the_page() -> None:
    svg = distribution_chart([row("Bold", 0.91)], 0.5)

    assert "font-family" not in svg
    assert "var(--good)" in svg
    assert "http" not in svg.replace("http://www.w3.org/", "")
