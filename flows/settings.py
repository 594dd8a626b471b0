"""One TOML file becomes the frozen settings of a migration. Unknown names are refused, with the nearest known one.

Relative paths are relative to the file; `{data}` in the hub's path stands for the data folder. This is the only place
that reads settings, and together with the engine and the server the only one that reads the environment.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.usable import unusable

Setting = float | int | str | bool
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

DATA_VARIABLE = "LORAX_DATA"
DEFAULT_DATA = Path("lorax-data")


class SettingsError(Exception):
    """The settings file cannot be used; the message lists every problem with its file and table."""


class Table(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class CatalogueTable(Table):
    """Where adapters are found."""

    source: str = Field(default="folder", description="Kind of catalogue.")
    path: Path = Field(description="The catalogue's folder.")


class BaseTable(Table):
    """A base model: where it lies or, without that, a known name; and how files and catalogues call it."""

    path: Path | None = Field(
        default=None,
        description="Folder or file of the base. What cannot be run, a file for one, is never scored or published.",
    )
    known: str = Field(
        default="", description="In place of a path: name or label of a known base; empty: the name of the table."
    )
    labels: tuple[str, ...] = Field(default=(), description="Other names of this base, as files and sidecars spell it.")


class PairTable(Table):
    """From which base to which, and how."""

    source: str = Field(description="Name of the base that the adapters were made for.")
    target: str = Field(description="Name of the base that they are moved to.")
    method: str = Field(default="calibrated", description="Transfer method.")
    dialect: str | None = Field(
        default=None, description="Dialect that conversions are written in; not set: the one each adapter came in."
    )
    settings: dict[str, Setting] = Field(default_factory=dict, description="Settings of the method.")


class ScoreTable(Table):
    """How conversions are scored, and how the probe of methods that calibrate is drawn."""

    prompts: tuple[str, ...] = Field(
        default=(),
        description="What is drawn or written; an adapter's trigger words are added. Diffusion models need some.",
    )
    samples: int = Field(default=16, ge=1, description="Images or texts per probe.")
    timesteps: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(100, 300, 500, 700, 900),
        min_length=1,
        description="Noise levels at which methods that calibrate look at each image.",
    )
    steps: int = Field(default=12, ge=1, description="DDIM steps per image.")
    guidance: float = Field(default=2.0, ge=0, description="Guidance scale; 1 runs without guidance.")
    seed: int = Field(default=0, ge=0, description="Seed of all noise.")
    length: int = Field(default=128, ge=2, description="Tokens per text.")
    text: str = Field(
        default="", description="File of neutral text (UTF-8) to take windows of; without, the plain bases write it."
    )
    levels: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(50, 150, 300, 500, 750), min_length=1, description="Noise levels that scores look at."
    )
    pictures: int = Field(default=8, ge=0, description="Pictures per model that the encoders look at.")
    predict: str = Field(default="", description="File of text (UTF-8) that language models are to predict.")
    questions: str = Field(
        default="", description="File of prompts, one a line, to be answered word for word as source and adapter do."
    )
    harness: tuple[str, ...] = Field(
        default=(), description="Tasks of lm-evaluation-harness, where it is installed: `task` or `task:metric`."
    )
    harness_tasks: str = Field(default="", description="Folder with further task files for it.")
    harness_limit: int = Field(default=0, ge=0, description="Questions per task; 0 asks all.")
    rounds: int = Field(
        default=2, ge=0, le=6, description="How often the samples are doubled while the verdict is uncertain."
    )


class EncoderTable(Table):
    """A model that sees pictures as points: figures of likeness, style, diversity and taste come from it."""

    kind: str = Field(description="Kind of encoder: see docs/encoders.md.")
    path: str = Field(description="Its folder, or hub:owner/name@revision.")


class Thresholds(Table):
    """What a conversion has to reach; its whole 95 % interval has to."""

    divergence_gain: float | None = Field(
        default=None, description="Least divergence gain: 1 = as on the old base, 0 = as without the adapter."
    )
    margin_over_random: float | None = Field(default=None, description="Least distance to the random control.")
    allowed_under_copy: float | None = Field(default=None, description="How far it may lie under a plain copy.")
    least: dict[str, float] = Field(default_factory=dict, description="Least values of other figures, by name.")
    most: dict[str, float] = Field(default_factory=dict, description="Greatest values of other figures, by name.")


class GateTable(Thresholds):
    """What a conversion has to reach; its whole 95 % interval has to. What is not set is docs/scores.md's default."""

    families: dict[str, Thresholds] = Field(
        default_factory=dict, description="Other thresholds for targets of a family: [gate.families.sdxl]."
    )


class RefreshTable(Table):
    """What is done about conversions that the gate does not let through: learning from source and adapter."""

    allowed: bool = Field(
        default=False, description="Whether conversions that do not pass are refreshed, and scored again."
    )
    seconds_per_adapter: float = Field(
        default=120.0, gt=0, description="Longest time that one adapter is learnt for, drawing of samples included."
    )
    seconds_in_all: float = Field(
        default=0.0, ge=0, description="Time for all adapters of a run; the next run goes on. 0: no limit."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Steps per adapter; not set: as many as its start asks for."
    )


class PolicyTable(Table):
    """What may be converted and published at all."""

    licences_allowed: tuple[str, ...] | None = Field(
        default=None, description="Licences that may be converted; not set: all that do not forbid derivatives."
    )
    licence_unknown: Literal["skip", "convert", "publish"] = Field(
        default="convert", description="What to do with entries without terms; `convert` never publishes them."
    )
    require_derivatives: bool = Field(
        default=True, description="False converts what forbids derivatives, for private use; it is never published."
    )
    opt_out: tuple[str, ...] = Field(
        default=(), description="Patterns of entry ids, names, creators, origins or sha256 to leave alone."
    )


class HubTable(Table):
    """Where conversions that pass are published."""

    kind: str = Field(default="folder", description="Kind of hub.")
    path: str = Field(default="{data}/hub", description="The hub's folder; {data} is the data folder.")


class Migration(Table):
    """The settings of one migration, with every path resolved."""

    name: Name = Field(description="Name of the migration, in the ledger and in reports.")
    catalogue: CatalogueTable
    bases: dict[Name, BaseTable] = Field(min_length=1)
    pairs: tuple[PairTable, ...] = Field(min_length=1)
    score: ScoreTable = ScoreTable()
    encoders: dict[Name, EncoderTable] = Field(default_factory=dict)
    gate: GateTable = GateTable()
    refresh: RefreshTable = RefreshTable()
    policy: PolicyTable = PolicyTable()
    hub: HubTable = HubTable()

    def hub_folder(self, data: Path) -> Path:
        """Returns the folder of the hub, `{data}` replaced by the data folder."""
        return Path(self.hub.path.replace("{data}", str(data)))

    def scoring(self) -> dict[str, Any]:
        """Returns all that scores depend on besides the gate, as plain JSON values."""
        encoders = {name: encoder.model_dump(mode="json") for name, encoder in self.encoders.items()}
        return {**self.score.model_dump(mode="json"), "encoders": encoders}

    def effective(self) -> dict[str, Any]:
        """Returns every setting with defaults filled in, as plain JSON values."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return values


TABLES: Mapping[str, type[Table]] = {
    "catalogue": CatalogueTable,
    "bases": BaseTable,
    "pairs": PairTable,
    "score": ScoreTable,
    "encoders": EncoderTable,
    "gate": GateTable,
    "refresh": RefreshTable,
    "policy": PolicyTable,
    "hub": HubTable,
}
"""Every table by its name."""


def data_folder(chosen: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the data folder: the one given, else $LORAX_DATA, else ./lorax-data; always absolute."""
    return Path(chosen or environment.get(DATA_VARIABLE) or DEFAULT_DATA).expanduser().absolute()


def load_migration(file: Path) -> Migration:
    """Reads a settings file; raises SettingsError with all of its problems at once."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise SettingsError(
            f"{file}: no such file (looked in {Path.cwd()}); give the path of a migration.toml"
        ) from missing
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise SettingsError(f"{file}: cannot be read as TOML: {problem}") from problem
    try:
        migration = Migration.model_validate(values)
    except ValidationError as problem:
        raise SettingsError("\n".join(_explain(problem, file))) from problem
    resolved = _resolved(migration, file.absolute().parent)
    if problems := [*_contradictions(resolved, file), *unusable(resolved, file)]:
        raise SettingsError("\n".join(problems))
    return resolved


def fingerprint(values: object) -> str:
    """Returns the sha256 of plain JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _resolved(migration: Migration, folder: Path) -> Migration:
    """Returns the migration with paths relative to the settings file made absolute."""
    bases = {
        name: base.model_copy(
            update={"path": _absolute(base.path, folder)} if base.path else {"known": base.known or name}
        )
        for name, base in migration.bases.items()
    }
    catalogue = migration.catalogue.model_copy(update={"path": _absolute(migration.catalogue.path, folder)})
    texts = {name: getattr(migration.score, name) for name in ("text", "predict", "questions", "harness_tasks")}
    found = {name: str(_absolute(Path(text), folder)) for name, text in texts.items() if text}
    score = migration.score.model_copy(update=found)
    encoders = {
        name: encoder.model_copy(update={"path": str(_absolute(Path(encoder.path), folder))})
        if not encoder.path.startswith("hub:")
        else encoder
        for name, encoder in migration.encoders.items()
    }
    hub = migration.hub
    if not hub.path.startswith("{data}"):
        hub = hub.model_copy(update={"path": str(_absolute(Path(hub.path), folder))})
    return migration.model_copy(
        update={
            "bases": bases,
            "catalogue": catalogue,
            "score": score,
            "encoders": {**migration.encoders, **encoders},
            "hub": hub,
        }
    )


def _absolute(path: Path, folder: Path) -> Path:
    return Path(os.path.normpath(folder / path.expanduser()))


def _contradictions(migration: Migration, file: Path) -> Iterator[str]:
    """Yields what no single table can know: missing folders, pairs of unknown bases, two answers to one question."""
    if not migration.catalogue.path.is_dir():
        yield f"{file} [catalogue]: path: there is no folder {migration.catalogue.path}"
    for name, base in migration.bases.items():
        if base.path and base.known:
            yield f"{file} [bases.{name}]: known: a base with a path needs no other name; give one of the two"
        if base.path and not base.path.exists():
            yield f"{file} [bases.{name}]: path: there is no folder {base.path}; expected a base model (docs/bases.md)"
    if 0 < migration.refresh.seconds_in_all < migration.refresh.seconds_per_adapter:
        yield f"{file} [refresh]: seconds_in_all: less than seconds_per_adapter, so that not one refresh could begin"
    first: dict[str, int] = {}
    for number, pair in enumerate(migration.pairs, start=1):
        where = f"{file} [[pairs]] number {number}"
        yield from (f"{where}: {text}" for text in _wrong_with(pair, migration))
        if first.setdefault(pair.source, number) != number:
            yield (
                f"{where}: pair number {first[pair.source]} starts from {pair.source!r} too, but an adapter has one "
                "target per migration: write a second settings file for the other target"
            )


def _wrong_with(pair: PairTable, migration: Migration) -> Iterator[str]:
    for role, name in (("source", pair.source), ("target", pair.target)):
        if name not in migration.bases:
            yield f"{role}: there is no [bases.{name}]{_nearest(name, migration.bases)}"
    paths = [base.path for name, base in migration.bases.items() if base.path and name in {pair.source, pair.target}]
    if len(paths) == len({pair.source, pair.target}) and not migration.score.prompts and _draws(paths):
        yield 'its bases draw pictures, so it is scored on some: [score] with prompts = ["a photograph of a harbour"]'
    if pair.source == pair.target:
        yield f"source and target are both {pair.source!r}"


def _draws(folders: list[Path]) -> bool:
    """Tells whether one of these is a diffusion model in diffusers' layout, as far as a look at its folder tells."""
    return any((folder / part).is_dir() for folder in folders for part in ("unet", "transformer"))


def _explain(problem: ValidationError, file: Path) -> Iterator[str]:
    for error in problem.errors():
        *table, name = (str(part) for part in error["loc"])
        where = f"{file} {_table_name(error['loc'][:-1])}"
        if error["type"] == "extra_forbidden":
            yield f"{where}: unknown setting {name!r}{_nearest(name, _known_names(table))}"
        elif error["type"] == "missing":
            yield f"{where}: {name!r} is missing"
        else:
            yield f"{where}: {name}: {error['msg'][0].lower()}{error['msg'][1:]} (found {error['input']!r})"


def _table_name(location: tuple[int | str, ...]) -> str:
    if not location:
        return "top level"
    if location[0] == "pairs":
        number = next((part + 1 for part in location if isinstance(part, int)), 1)
        rest = "".join(f".{part}" for part in location[2:])
        return f"[[pairs{rest}]] number {number}"
    return "[" + ".".join(str(part) for part in location) + "]"


def _known_names(table: list[str]) -> list[str]:
    """Returns the settings that a table understands; `table` starts with its name, empty at the top level."""
    model = TABLES[table[0]] if table else Migration
    return sorted(model.model_fields)


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(sorted(known))}"
