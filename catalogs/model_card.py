"""The model card of a conversion: YAML front matter for machines, Markdown for people, printed from one record.

Names, trigger words and licences come from strangers: in the YAML they pass through a YAML writer, in the Markdown
each of their punctuation characters is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import jinja2
import yaml

from catalogs.provenance import ConversionRecord
from catalogs.sidecar import clean

TEMPLATES: Final = Path(__file__).parent / "templates"
MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@=$^])")
LINK: Final = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~/?&=%-]*)?")
HUB_LICENCES: Final = frozenset(
    (
        *("apache-2.0", "mit", "openrail", "creativeml-openrail-m", "openrail++", "bigscience-openrail-m", "unknown"),
        *("cc", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
        *("bsd", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "isc", "unlicense"),
    )
)
"""The licence names that hubs know; any other one is given as `other` with its own name."""

CANDIDATES: Final = {
    "converted": "this conversion",
    "copy": "plain copy of the source weights",
    "random": "random weights of the same size",
    "zero": "no adapter",
}


def render_card(
    record: ConversionRecord,
    *,
    title: str,
    base_model: str,
    weights_name: str,
    library_name: str = "diffusers",
    preview_name: str | None = None,
    writes_text: bool = False,
) -> str:
    """Returns README.md for a release; the same record gives the same text.

    `base_model` is the public name of the target base, `weights_name` the path of its U-Net's weights inside the
    release, `preview_name` an image file of the release; `writes_text` says that the base is a language model.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701  # the output is Markdown: the filter `md` escapes it
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(md=escape_markdown, quoted=_quoted, figure=_figure, link=_link)
    return environment.get_template("model_card.md.jinja").render(
        front_matter=_front_matter(record, base_model, library_name),
        record=record,
        entry=record.entry,
        title=title,
        base_model=base_model,
        weights_name=weights_name,
        weights_folder=str(PurePosixPath(weights_name).parent),
        library_name=library_name,
        preview_name=preview_name,
        writes_text=writes_text,
        permissions=_permissions(record),
        learnt=_learnt(record),
        rows=_rows(record),
        figures=_figure_names(record),
    )


def escape_markdown(text: str) -> str:
    """Returns a stranger's text so that Markdown shows it letter by letter: one line, no markup, no HTML."""
    plain = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\1", plain)


def _front_matter(record: ConversionRecord, base_model: str, library_name: str) -> str:
    licence = record.entry.terms.licence
    values: dict[str, object] = {
        "base_model": clean(base_model),
        "base_model_relation": "adapter",
        "library_name": library_name,
        **_licence(licence),
    }
    if record.entry.trigger_words:
        values["instance_prompt"] = ", ".join(clean(word) for word in record.entry.trigger_words)
    values["tags"] = ["lora", "lorax-transferred", f"lorax-method:{record.method}"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000).rstrip("\n")


def _licence(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {"license": "unknown"}
    if licence.casefold() in HUB_LICENCES:
        return {"license": licence.casefold()}
    return {"license": "other", "license_name": clean(licence)}


def _permissions(record: ConversionRecord) -> list[tuple[str, str]]:
    terms = record.entry.terms
    said = {True: "yes", False: "no", None: "not stated"}
    # An empty list next to stated permissions is a catalogue's "none"; without any it only means that nobody asked.
    no_uses = said[None] if terms.allow_derivatives is None else "not granted"
    return [
        ("Licence", terms.licence or "not stated"),
        ("Derivatives allowed", said[terms.allow_derivatives]),
        ("Commercial use", ", ".join(terms.allow_commercial_use) or no_uses),
        ("Use without credit", said[terms.allow_no_credit]),
        ("Other permissions for derivatives", said[terms.allow_different_licence]),
    ]


def _learnt(record: ConversionRecord) -> str:
    """Returns what a refresh did in words; empty where there was none."""
    if not record.refresh:
        return ""
    gain = record.refresh.get("divergence_gain")
    ends = [gain.get(name) for name in ("before", "after")] if isinstance(gain, Mapping) else [None]
    reached = "" if None in ends else f"; divergence gain on others of them {ends[0]:.2f} before, {ends[1]:.2f} after"
    return f"{record.refresh.get('steps')} steps on samples that the source adapter drew itself{reached}"


def _figure_names(record: ConversionRecord) -> list[str]:
    return sorted({name for figures in record.figures.values() for name in figures}, key=_leading)


def _leading(name: str) -> tuple[bool, str]:
    return name != "divergence_gain", name


def _rows(record: ConversionRecord) -> list[tuple[str, list[tuple[float | None, float | None, float | None]]]]:
    """Returns, per candidate, (value, low, high) for each of the figures in their order."""
    ordered = [*(name for name in CANDIDATES if name in record.figures), *sorted(set(record.figures) - set(CANDIDATES))]
    rows = []
    for candidate in ordered:
        found = [record.figures[candidate].get(name, {}) for name in _figure_names(record)]
        cells = [(each.get("value"), each.get("low"), each.get("high")) for each in found]
        rows.append((CANDIDATES.get(candidate, candidate), cells))
    return rows


def _figure(cell: Sequence[float | None]) -> str:
    value, low, high = cell
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")


def _quoted(text: str) -> str:
    """Returns a text as a literal of Python, safe inside a fenced code block."""
    return json.dumps(clean(text).replace("`", "'"))


def _link(text: str) -> str:
    return f"<{text}>" if LINK.fullmatch(text) else escape_markdown(text)
