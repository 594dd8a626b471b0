"""The command `lorax`: migrate, status, query, trace. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console

import lorax
from flows.guard import ForeignPackageError, check_packages

USAGE = 2
T = TypeVar("T")

app = typer.Typer(
    name="lorax",
    help="Moves whole catalogues of LoRA adapters from one base model to another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Data folder; otherwise $LORAX_DATA, otherwise ./lorax-data."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


def main() -> None:
    """Runs the command line; the entry point of the console script."""
    try:
        check_packages()
    except ForeignPackageError as problem:
        _fail(str(problem))
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lorax {lorax.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Moves whole catalogues of LoRA adapters from one base model to another."""


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The settings of the migration, a TOML file.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen to each adapter; write nothing but a report.")
    ] = False,
    data: Data = None,
) -> None:
    """Convert, score and publish a catalogue; run it again to go on where it stopped."""
    from flows.launch import run_dry, run_migration

    raise typer.Exit(_guarded(lambda: (run_dry if dry_run else run_migration)(file, data)))


@app.command()
def status(data: Data = None, as_json: AsJson = False) -> None:
    """Show how many entries are in which state, and where report and ledger lie."""
    from flows.look import show_status

    _guarded(lambda: show_status(data, as_json=as_json))


@app.command()
def query(
    question: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|SQL]", help="A query's name, or one SQL statement.", show_default=False),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the queries that have a name.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Ask the ledger."""
    from flows.look import show_answer, show_queries

    if list_all or question is None:
        _guarded(lambda: show_queries(as_json=as_json))
    else:
        _guarded(lambda: show_answer(question, data, as_json=as_json))


@app.command()
def trace(
    wanted: Annotated[str, typer.Argument(metavar="FILE|ID", help="A published file, a source file, or an id.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Follow a published file back to its source bytes, plan, scores and verdict."""
    from flows.look import show_trace

    _guarded(lambda: show_trace(wanted, data, as_json=as_json))


def _guarded(work: Callable[[], T]) -> T:
    """Returns what `work` returns; what stops a run for a known reason becomes one message and exit status 2."""
    from catalogs.errors import Stop as CatalogsStop
    from flows.engine import EngineError
    from flows.server import ServerError
    from flows.settings import SettingsError
    from lorax.errors import Stop as LoraxStop

    try:
        return work()
    except (SettingsError, EngineError, ServerError, CatalogsStop, LoraxStop) as problem:
        _fail(str(problem))


def _fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"lorax: {message}", markup=False)
    sys.exit(USAGE)


if __name__ == "__main__":
    main()
