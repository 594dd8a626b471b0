from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from catalogs.ledger import Reader
from catalogs.report import AdapterRow, LostSite, Measured, ReportData, render_report, report_data_from_ledger


def png(width: int = 2, height: int = 3) -> bytes:
    """Returns a real grey PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Page(HTMLParser):
    """What a browser sees: tags with attributes, and text outside style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.text += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile() -> str:
    return "<img src=x onerror=alert(1)>\"'{{7*7}}</script>"


def scored(name: str, gain: float, *, image: bytes | Path | None = None, state: str = "published") -> AdapterRow:
    figures = {
        "converted": {"divergence_gain": Measured(gain, gain - 0.05, gain + 0.05), "drift": Measured(None)},
        "copy": {"divergence_gain": Measured(gain - 0.2)},
    }
    rows = ("source+adapter", "target + converted") if image else ()
    return AdapterRow(name, f"{name}.safetensors", state, "gate-passed", figures=figures, image=image, image_rows=rows)


def plain(name: str, *, image: bytes | Path | None = None) -> AdapterRow:
    """An adapter without figures: its page has no charts and is drawn in no time."""
    return AdapterRow(name, f"{name}.safetensors", "passed", "dry-run", image=image)


def report(*rows: AdapterRow) -> ReportData:
    return ReportData(
        "digits", "run-1", "2026-11-22T07:05:28+00:00", "2026-11-22T07:06:00+00:00", rows, gate_threshold=0.5
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    rows = [
        scored("Bold", 0.91, image=png()),
        scored("Faint", 0.21, state="rejected"),
        AdapterRow("Broken", "broken.safetensors", "quarantined", "truncated", "the file has 100 bytes"),
    ]
    return Page(render_report(report(*rows), tmp_path_factory.mktemp("report") / "report.html"))


def test_the_page_asks_nobody_for_anything(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            address = attributes.get(name) or ""
            assert address.startswith(("data:", "#")) or not address, (tag, address)
    assert not page.find("link")
    assert not page.find("iframe")
    policy = [meta.get("content") or "" for meta in page.find("meta") if meta.get("http-equiv")]
    assert policy[0].startswith("default-src 'none'")


def test_styles_and_scripts_load_nothing_either(tmp_path: Path) -> None:
    html = render_report(report(plain("Bold")), tmp_path / "r.html").read_text()

    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(|new Image|WebSocket", html)


def test_every_entry_every_reason_and_the_counts_are_on_the_page(page: Page) -> None:
    for words in ("Bold", "Faint", "Broken", "truncated", "the file has 100 bytes", "gate-passed", "0.91", "0.71"):
        assert words in page.text
    assert "1 of 3 entries is published on the new base." in page.text
    assert [row.get("data-state") for row in page.find("tr") if "data-state" in row] == [
        "published",
        "rejected",
        "quarantined",
    ]


def test_charts_are_there_for_a_desk_and_for_a_phone(page: Page) -> None:
    assert len(page.find("svg")) == 4
    assert [a.get("class") for a in page.find("div") if a.get("class") in ("wide", "narrow")] == ["wide", "narrow"] * 2


def test_images_are_inside_the_file_with_words_for_those_who_cannot_see_them(page: Page) -> None:
    (image,) = page.find("img")

    assert base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")) == png()
    assert image["alt"] == "Samples of Bold: source + adapter, target + converted"
    assert "aspect-ratio: 2 / 3" in str(image["style"])


def test_a_strangers_text_is_shown_letter_by_letter(tmp_path: Path, hostile: str) -> None:
    row = AdapterRow(hostile, hostile, "skipped", hostile, hostile, base=hostile, method=hostile)
    scores = replace(scored(hostile, 0.4, image=png()), entry_id="other", image_rows=(hostile,))
    data = replace(report(row, scores), migration=hostile, settings={"name": hostile}, versions={hostile: hostile})

    page = Page(render_report(data, tmp_path / "r.html"))

    assert page.text.count(hostile) > 8
    assert len(page.find("img")) == 1
    assert len(page.find("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.parametrize("content", [b"", b"not a png", b"\x89PNG\r\n\x1a\n", png() + b"x" * (5 << 20), None])
def test_an_image_that_cannot_be_shown_is_named_as_missing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)

    page = Page(render_report(report(plain("Bold", image=path)), tmp_path / "r.html"))

    assert "could not be read" in page.text
    assert not page.find("img")


def test_pictures_beyond_the_limit_are_counted_not_dropped_silently(tmp_path: Path) -> None:
    rows = [plain(f"a{number}", image=png()) for number in range(5)]

    page = Page(render_report(report(*rows), tmp_path / "r.html", most_pictures=2))

    assert len(page.find("img")) == 2
    assert "The first 2 adapters are shown; 3 more have images" in page.text


def test_a_dry_run_and_an_unfinished_run_say_so(tmp_path: Path) -> None:
    dry = Page(render_report(replace(report(plain("a")), is_dry_run=True), tmp_path / "dry.html"))
    cut = Page(render_report(replace(report(plain("a")), finished_at=""), tmp_path / "cut.html"))

    assert "Dry run: nothing was converted" in dry.text
    assert "This run has not ended" in cut.text


def test_a_second_run_says_that_there_was_nothing_to_do(tmp_path: Path) -> None:
    old = replace(plain("a"), is_of_this_run=False)

    everything = Page(render_report(report(old), tmp_path / "a.html"))
    some = Page(render_report(report(old, plain("b")), tmp_path / "b.html"))

    assert "there was nothing to do" in everything.text
    assert "Earlier runs had settled 1 of the 2." in some.text


def test_an_empty_catalogue_still_gives_a_page(tmp_path: Path) -> None:
    assert "The catalogue holds no entries." in Page(render_report(report(), tmp_path / "r.html")).text


def test_a_story_from_the_ledger_becomes_a_whole_page_and_always_the_same(tmp_path: Path, told: Reader) -> None:
    data = report_data_from_ledger(told, "run-1")
    path = render_report(data, tmp_path / "reports" / "run-1.html")
    first, page = path.read_bytes(), Page(path)

    for words in (
        "How alike digits-v1 and digits-v2 are",
        "0.21 is below 0.5",
        "lorax 0.1.0+abc1234",
        "12.5 s",
        "run-1",
    ):
        assert words in page.text
    assert len(page.find("svg")) == 6
    assert render_report(data, path).read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["run-1.html"]


def test_every_site_without_a_home_is_named_with_its_share_and_the_place_of_the_file(tmp_path: Path) -> None:
    lost = tuple(LostSite(f"unet:mid_block.attentions.{n}.proj_in", "no-target-site", 0.01 * n) for n in (3, 2))
    row = AdapterRow(
        "Bold", "bold", "rejected", "not-scored", target="sdxl", sites_mapped=5, sites_total=7,
        dropped_norm_share=0.05, lost_sites=lost, files=("conversions/ab/files/bold.safetensors",),
    )  # fmt: skip
    published = replace(row, name="Fine", state="published", location="hub/fine", figures={"converted": {}})
    data = ReportData("m", "r", "", adapters=(row, published))
    text = re.sub(r"\s+", " ", Page(render_report(data, tmp_path / "r.html")).text)

    assert "Bold: 5 of 7 sites have a home in sdxl; 5.0% of the norm is lost" in text
    assert "Never scored. Not published; the converted file lies in the data folder: conversions/ab" in text
    assert text.count("Never scored") == 1
    for one, share in zip(lost, ("3.0%", "2.0%"), strict=True):
        assert f"{one.site}{share}no-target-site" in "".join(text.split())


def test_adapters_with_lost_sites_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    lost = (LostSite("unet:mid_block", "no-target-site", 0.5),)
    rows = tuple(
        AdapterRow(f"a{n}", f"a{n}", "published", "gate-passed", dropped_norm_share=n / 9, lost_sites=lost)
        for n in range(5)
    )
    page = Page(render_report(ReportData("m", "r", "", adapters=rows), tmp_path / "r.html", most_pictures=2))

    assert "The 2 adapters that lost most are listed; of 3 more" in page.text
    assert page.text.index("a4: ") < page.text.index("a3: ")
    assert "a2: " not in page.text
