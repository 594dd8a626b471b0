"""Writes the pages of docs/ that only repeat what the code says: tables of plug-ins, reason codes, queries, commands.

Without arguments writes them; with --check writes nothing and fails when one of them is out of date.
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from pydantic import BaseModel  # noqa: E402 - after the path
from pydantic_core import PydanticUndefined  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from scripts import benchmarks_page, scores_page  # noqa: E402

NOTE = "<!-- Written by scripts/generate_docs.py from the code; `make docs` writes it anew. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table; cells are shown on one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def methods_page() -> str:
    """Returns the page of transfer methods and probes."""
    from lorax.methods import METHODS
    from lorax.probes import PROBES

    settings = [
        (f"`{method.name}`", f"`{name}`", f"`{value}`")
        for method in METHODS.values()
        for name, value in method.settings.items()
    ]
    return "\n\n".join(
        [
            "# Methods and probes",
            (
                'A method is chosen per pair: `method = "…"` in a `[[pairs]]` table of the migration\'s settings. '
                "Controls are there to be compared with, not to be published."
            ),
            table(
                ["method", "what it does", "needs", "control", "source"],
                (
                    (f"`{m.name}`", m.summary, m.needs, "yes" if m.is_control else "", m.reference)
                    for m in METHODS.values()
                ),
            ),
            "## Settings of methods\n\nThey go into `[pairs.settings]`; these are the defaults.",
            table(["method", "setting", "default"], settings),
            refresh_section(),
            "## Probes",
            table(["probe", "what it shows the models"], ((f"`{p.name}`", p.summary) for p in PROBES.values())),
        ]
    )


def refresh_section() -> str:
    """Returns what there is beyond methods, with the numbers that it goes by."""
    from lorax.refresh import FAR, GOOD_START, NEAR

    paces = [
        (kind, start, pace.samples, pace.steps, pace.batch, pace.rate)
        for start, by_kind in ((f"gain of {GOOD_START} or more", NEAR), ("any other", FAR))
        for kind, pace in by_kind.items()
    ]
    return "\n\n".join(
        [
            "## Escalation: refresh",
            (
                "What no plan can carry is learnt: `lorax convert ADAPTER --source S --target T --method refresh` runs "
                "both bases and distils source+adapter into an adapter of the same rank, without task data, started "
                "from the best conversion. It needs both bases at every adapter, so it is no method of a plan. "
                "[refresh.md](refresh.md) has the figures. How much is learnt follows from the divergence gain of the "
                "start:"
            ),
            table(["models", "start", "samples", "steps", "batch", "rate"], paces),
        ]
    )


def dialects_page() -> str:
    """Returns the page of everything that can be read and written: dialects, algorithms, base models, sources, hubs."""
    from catalogs.hubs import HUBS
    from catalogs.sources import SOURCES
    from lorax.algorithms import ALGORITHMS
    from lorax.base_models import FAMILIES
    from lorax.dialects import DIALECTS
    from lorax.foreign import FOREIGN, NOT_ADAPTERS, why_refused

    def summaries(plug_ins: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [(f"`{one.name}`", one.summary) for one in plug_ins.values()]

    dialects = [
        (f"`{one.name}`", one.summary, "both" if one.pack is not None else "read only") for one in DIALECTS.values()
    ]
    moved = {one.name: one for one in ALGORITHMS.values() if not one.refusal}
    refused = [(f"`{one.name}`", one.refusal) for one in ALGORITHMS.values() if one.refusal]
    refused += [(name, why_refused(name)) for _, name in FOREIGN]
    refused += [(name, "no low-rank adapter") for _, name in NOT_ADAPTERS]
    known = [
        (f"`{family.name}`", family.summary, f"`{version.name}`", len(version.sites), f"{version.parameters:,}")
        for family in FAMILIES.values()
        for version in family.versions()
    ]
    return "\n\n".join(
        [
            "# Files that lorax reads and writes",
            (
                "A conversion is written in the dialect that its source file had. `lorax inspect` tells what a file is,"
                " `lorax rewrite` writes it in another dialect; [adapter-files.md](adapter-files.md) tells more."
            ),
            table(["dialect", "what it is", "read, write"], dialects),
            "## Algorithms\n\nHow an update is stored.",
            table(["algorithm", "what it is"], summaries(moved)),
            "Recognised, and refused with `unsupported-algorithm` and the reason:",
            table(["what", "why"], dict.fromkeys(refused)),
            (
                "## Base models\n\nAny folder of a known family serves as a base; these are also known without their "
                "weights, so that an adapter of theirs is named when it turns up in a catalogue."
            ),
            table(["family", "what it is", "known by heart", "sites", "parameters"], known),
            "## Where adapters are found",
            table(["source", "what it is"], summaries(SOURCES)),
            "## Where conversions are published",
            table(["hub", "what it is"], summaries(HUBS)),
        ]
    )


def reason_codes_page() -> str:
    """Returns the page of states and reason codes."""
    from flows.states import STATES, reasons

    return "\n\n".join(
        [
            "# States and reason codes",
            (
                "Every entry of a catalogue ends each run in exactly one state, with at least one reason code. "
                "`lorax status` counts the states; `lorax query states` lists every entry."
            ),
            table(["state", "meaning"], ((f"`{state}`", meaning) for state, meaning in STATES.items())),
            "## Reason codes\n\nThe codes are stable: they are rows of the ledger and words of reports.",
            table(["code", "meaning"], ((f"`{code}`", sentence) for code, sentence in reasons().items())),
        ]
    )


def queries_page() -> str:
    """Returns the page of the named queries."""
    from catalogs.queries import list_queries

    return "\n\n".join(
        [
            "# Queries",
            (
                '`lorax query NAME` asks one of these, `lorax query "SELECT …"` anything else; `--json` prints rows '
                "for programs. Nothing that is asked can change the ledger. A query is one file in `catalogs/queries/`."
            ),
            table(
                ["query", "answers", "in detail"],
                ((f"`{query.name}`", query.title, query.about) for query in list_queries()),
            ),
        ]
    )


def commands_page() -> str:
    """Returns the page of the command line: the help text of each command, as the program prints it."""
    from flows.command_line import app

    names = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)
    pages = [("lorax", _help([])), *((f"lorax {name}", _help([name])) for name in names)]
    return "\n\n".join(["# Commands", *(f"## `{path}`\n\n```text\n{text}\n```" for path, text in pages)])


def _help(command: list[str]) -> str:
    from flows.command_line import app

    shown = CliRunner().invoke(app, [*command, "--help"], prog_name="lorax", env={"COLUMNS": "100", "NO_COLOR": "1"})
    if shown.exit_code != 0:
        raise SystemExit(f"lorax {' '.join(command)} --help failed: {shown.output}")
    return "\n".join(line.rstrip() for line in shown.output.strip().splitlines())


def settings_page() -> str:
    """Returns the page of the settings file: every table, every setting, its type and default."""
    from flows import settings

    tables = [
        ("top level", settings.Migration),
        ("[catalogue]", settings.CatalogueTable),
        ("[bases.NAME]", settings.BaseTable),
        ("[[pairs]]", settings.PairTable),
        ("[score]", settings.ScoreTable),
        ("[gate]", settings.GateTable),
        ("[policy]", settings.PolicyTable),
        ("[hub]", settings.HubTable),
    ]
    return "\n\n".join(
        [
            "# Settings of a migration",
            (
                "One TOML file is one migration. Relative paths are relative to the file; unknown names are refused. "
                "[examples/digits/migration.toml](../examples/digits/migration.toml) is a complete one."
            ),
            *(_settings_table(name, model) for name, model in tables),
        ]
    )


def _settings_table(name: str, model: type[BaseModel]) -> str:
    rows: list[tuple[str, str, str, str]] = []
    for field, about in model.model_fields.items():
        if isinstance(about.annotation, type) and issubclass(about.annotation, BaseModel):
            continue
        if field in {"bases", "pairs"}:
            continue
        default = about.get_default(call_default_factory=True)
        shown = "(required)" if default is PydanticUndefined else f"`{_toml(default)}`"
        rows.append((f"`{field}`", _kind(about.annotation), shown, about.description or ""))
    return f"## `{name}`\n\n{(model.__doc__ or '').strip()}\n\n" + table(
        ["setting", "type", "default", "meaning"], rows
    )


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if value is None:
        return "(not set)"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _kind(annotation: Any) -> str:  # noqa: ANN401 - what typing calls a type form
    """Returns the type of a setting in words of TOML."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inside[0])
    if origin is typing.Literal:
        return "one of " + _code(f'"{each}"' for each in inside)
    if origin is tuple:
        return f"list of {_kind(inside[0])}s"
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(_kind(each) for each in inside if each is not type(None))
    if origin is dict:
        return "table"
    return {"str": "string", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


PAGES: dict[str, Callable[[], str]] = {
    "docs/benchmarks.md": benchmarks_page.page,
    "docs/commands.md": commands_page,
    "docs/files.md": dialects_page,
    "docs/methods.md": methods_page,
    "docs/queries.md": queries_page,
    "docs/reason-codes.md": reason_codes_page,
    "docs/scores.md": scores_page.page,
    "docs/settings.md": settings_page,
}


def main() -> None:
    """Writes or checks every generated page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    check = options.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = REPOSITORY / name, f"{NOTE}\n\n{page()}\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs` and commit what it writes")
    sys.stdout.write(f"{len(PAGES)} pages, {len(stale)} {'out of date' if check else 'written'}\n")


if __name__ == "__main__":
    main()
