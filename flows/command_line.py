"""The command `lorax` and its subcommands. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
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
Probe = Annotated[
    Path | None,
    typer.Option("--probe", metavar="FILE", help="A TOML file with a table [probe], for methods that run both bases."),
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


@app.command()
def explain(
    wanted: Annotated[
        str, typer.Argument(metavar="ADAPTER|FILE|ID", help="An adapter's name, a file of the catalogue, or any id.")
    ],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Tell in words why an adapter was rejected, or ended as it did, and what one can do."""
    from flows.explaining import show_explanation

    _guarded(lambda: show_explanation(wanted, data, as_json=as_json))


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE|FOLDER", help="An adapter file, a PEFT folder, or a folder of adapters."),
    ],
    as_json: AsJson = False,
    full: Annotated[
        bool, typer.Option("--full", help="Read the tensors of every file of a folder, not only the headers.")
    ] = False,
    base: Annotated[
        list[Path] | None,
        typer.Option("--base", metavar="FOLDER|FILE", help="A base model to compare with, beside those known."),
    ] = None,
) -> None:
    """Tell what an adapter file holds and which base model it is for."""
    from flows.adapter_files import show_inspection

    raise typer.Exit(_guarded(lambda: show_inspection(path, as_json=as_json, full=full, bases=base or [])))


@app.command()
def rewrite(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="An adapter file or a PEFT folder.")],
    dialect: Annotated[str, typer.Option("--dialect", help="The dialect to write: see docs/files.md.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file (*.safetensors) or folder to write.")
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME|FOLDER|FILE", help="The base model, where the file leaves it open."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, help="Approximate, at this rank, what the dialect has no exact word for."),
    ] = None,
) -> None:
    """Write the same adapter in another tool's spelling."""
    from flows.rewriting import rewrite as rewrite_adapter

    raise typer.Exit(_guarded(lambda: rewrite_adapter(path, dialect=dialect, out=out, base=base, rank=rank)))


@app.command()
def compare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder or file of a base model, or a known one's name.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same of the base to move adapters to.")],
    as_json: AsJson = False,
    heat_map: Annotated[
        Path | None,
        typer.Option("--heat-map", metavar="FILE", help="Draw likeness by block and role: *.html, *.svg or *.png."),
    ] = None,
) -> None:
    """Tell how two base models correspond, how alike they are, and what each method can be expected to do."""
    from flows.comparing import show_comparison

    _guarded(lambda: show_comparison(source, target, as_json=as_json, heat_map=heat_map))


@app.command()
def plan(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder or file of the base that adapters were made for.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Folder or file of the base that they are moved to.")
    ],
    method: Annotated[str, typer.Option("--method", help="The transfer method: see docs/methods.md.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="PLAN", help="The file (*.safetensors) or folder to write.")
    ],
    probe: Probe = None,
    as_json: AsJson = False,
) -> None:
    """Compile a method for two base models, once for any number of adapters."""
    from flows.converting import make_plan

    work = partial(make_plan, source, target, method=method, probe=probe, out=out, as_json=as_json)
    raise typer.Exit(_guarded(work))


@app.command()
def convert(  # noqa: PLR0913 - one argument per option
    path: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter file or a PEFT folder.")],
    *,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file (*.safetensors) or folder to write.")
    ],
    plan: Annotated[Path | None, typer.Option("--plan", metavar="PLAN", help="A plan made by `lorax plan`.")] = None,
    source: Annotated[
        Path | None, typer.Option("--source", metavar="FOLDER|FILE", help="The base that the adapter was made for.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--target", metavar="FOLDER|FILE", help="The base that it is moved to.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="The transfer method: see docs/methods.md.")] = None,
    probe: Probe = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="SECONDS", min=0, help="How long `refresh`, or `auto` with it, may take at most."
        ),
    ] = None,
    dialect: Annotated[
        str | None, typer.Option("--dialect", help="The dialect to write, otherwise the adapter's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert one adapter, by a plan or by two base models and a method."""
    from flows.converting import Recipe
    from flows.converting import convert as convert_one

    recipe = Recipe(plan, source, target, method, probe, budget)
    raise typer.Exit(_guarded(lambda: convert_one(path, recipe, out=out, dialect=dialect, as_json=as_json)))


@app.command()
def score(
    path: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter file or a PEFT folder, for the source.")],
    *,
    source: Annotated[Path, typer.Option("--source", metavar="FOLDER", help="The base that the adapter was made for.")],
    target: Annotated[Path, typer.Option("--target", metavar="FOLDER", help="The base that it was moved to.")],
    converted: Annotated[
        Path, typer.Option("--converted", metavar="ADAPTER", help="What it became there: a file or PEFT folder.")
    ],
    probe: Annotated[
        Path | None,
        typer.Option(
            "--probe",
            metavar="FILE",
            help="Prompts, one a line (*.txt), or TOML: a table [probe], or a migration's [score], [encoders], [gate].",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell how much of an adapter's effect a conversion keeps: exit status 0 it passes, 3 it fails, 4 uncertain."""
    from flows.scoring_command import Request
    from flows.scoring_command import score as score_one

    request = Request(adapter=path, converted=converted, source=source, target=target, probe=probe)
    raise typer.Exit(_guarded(lambda: score_one(request, as_json=as_json)))


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
