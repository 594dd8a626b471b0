"""Where a base model lies: a folder of diffusers or transformers, one component of one, a single file; its parameters.

Every kind of place gives the same: the family, the parameters of each component under canonical names, the files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lorax.base_model import Family
from lorax.base_models import FAMILIES
from lorax.errors import BadFile, Stop
from lorax.gguf_file import is_gguf, open_gguf
from lorax.gguf_names import language_model, speaks_of
from lorax.inventories.known import read_config
from lorax.one_file import recognise, refuse_adapter
from lorax.quantisation import join_quantised, settings_beside
from lorax.stacked_experts import with_experts
from lorax.stored import Plain, Stored
from lorax.templates import Placed
from lorax.weight_file import PICKLE_SUFFIXES, WeightFile, open_weight_file

_PREFERRED = ("diffusion_pytorch_model", "model")
_WEIGHTS = (".safetensors", ".gguf")
_UNFINISHED = frozenset({".part", ".partial", ".incomplete", ".crdownload", ".aria2", ".tmp", ".download"})
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_INDEX_BYTES = 64 * 2**20
_AGAIN = "download the base model again"
_SAFETENSORS = (
    "opening it could run code; take the .safetensors file of the model, or let diffusers or transformers save it anew "
    "(save_pretrained) on a machine that may run it"
)


@dataclass(frozen=True, slots=True, eq=False)
class OpenBase:
    """Is a base model as it was found.

    parts: parameters by component and canonical name; not_runnable: why it cannot be run from here, "" when it can.
    """

    family: Family
    parts: Placed
    files: Sequence[WeightFile]
    not_runnable: str = ""


def open_base_files(path: Path) -> OpenBase:
    """Opens what lies at a path and checks every header. Raises Stop, saying what was seen and what to give instead."""
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise Stop(
                f"{path}: there is no such folder and no such file; give the folder of a base model, or its file"
            )
        return _file(path)
    except BadFile as error:
        raise Stop(f"{error} (reason {error.reason}). {_advice(error)}") from error


def _advice(error: BadFile) -> str:
    if error.reason == "pickle":
        return _SAFETENSORS[0].upper() + _SAFETENSORS[1:]
    return _AGAIN[0].upper() + _AGAIN[1:]


def _folder(folder: Path) -> OpenBase:
    if (folder / "adapter_config.json").is_file():
        advice = "give the base model that it was made for; `lorax inspect` tells which that is"
        raise Stop(f"{folder}: this is an adapter and no base model (it has adapter_config.json); {advice}")
    for family in FAMILIES.values():
        if family.recognises(folder):
            return _components(family, dict(sorted(family.components(folder).items())))
    if (found := _component(folder)) is not None:
        return found
    return _only_file(folder)


def _components(family: Family, folders: Mapping[str, Path], *, not_runnable: str = "") -> OpenBase:
    parts: dict[str, dict[str, Stored]] = {}
    files: list[WeightFile] = []
    for component, folder in folders.items():
        opened = [open_weight_file(path) for path in weight_paths(folder)]
        parts[component] = _canonical(family, component, folder, opened)
        files += opened
    return OpenBase(family, parts, files, not_runnable)


def _canonical(family: Family, component: str, folder: Path, files: Sequence[WeightFile]) -> dict[str, Stored]:
    """The parameters of a component whose files use the names of diffusers or transformers."""
    tensors = {name: Plain(file, entry) for file in files for name, entry in file.tensors.items()}
    parameters = join_quantised(tensors, settings_beside(folder), where=str(folder))
    return with_experts({family.canonical(component, name): stored for name, stored in parameters.items()})


def _component(folder: Path) -> OpenBase | None:
    """A folder of diffusers that is itself a U-Net or a transformer, and no pipeline; None for another folder."""
    if "_class_name" not in read_config(folder / "config.json"):
        return None
    for component in ("unet", "transformer"):
        if (family := _family_around(folder, component)) is not None:
            return _components(family, {component: folder}, not_runnable=_one_part(component))
    return None


def _one_part(component: str) -> str:
    return f"it is the {component} alone, without text encoder, tokenizer and scheduler"


def _family_around(folder: Path, component: str) -> Family | None:
    """Families look at folders of whole pipelines, so one is set up around the component."""
    with TemporaryDirectory(prefix="lorax-") as pipeline:
        (Path(pipeline) / component).symlink_to(folder.resolve(), target_is_directory=True)
        return next((family for family in FAMILIES.values() if family.recognises(Path(pipeline))), None)


def _only_file(folder: Path) -> OpenBase:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _WEIGHTS)
    if len(found) == 1:
        return _file(found[0])
    if found:
        shown = ", ".join(path.name for path in found[:6]) + (" …" if len(found) > 6 else "")
        raise Stop(f"{folder}: this folder holds {len(found)} files of weights ({shown}); give one of the files")
    known = ", ".join(FAMILIES)
    seen = _seen(folder)
    expected = "expected is a folder as saved by diffusers or transformers, or one .safetensors or .gguf file"
    raise Stop(f"{folder}: no known family of base models looks like this (known: {known}); {seen}{expected}")


def _seen(folder: Path) -> str:
    """What else a folder holds that explains why it is none."""
    config = read_config(folder / "config.json")
    said = config.get("_class_name") or config.get("model_type")
    if said:
        return f"its config.json says {str(said)[:80]!r}; "
    names = sorted(folder.iterdir())
    if unfinished := [path.name for path in names if path.suffix.lower() in _UNFINISHED]:
        return f"{unfinished[0]} is a download that was not finished, {_AGAIN}; "
    pickles = [path.name for path in names if path.suffix.lower() in PICKLE_SUFFIXES]
    return f"{pickles[0]} is a pickle, and {_SAFETENSORS}; " if pickles else ""


def _file(path: Path) -> OpenBase:
    suffix = path.suffix.lower()
    if suffix in _UNFINISHED:
        raise Stop(f"{path}: this download was not finished; {_AGAIN}")
    if suffix in PICKLE_SUFFIXES:
        raise Stop(f"{path}: files that end in {suffix} are pickles, and {_SAFETENSORS}")
    if is_gguf(path):
        return _gguf(path)
    file = open_weight_file(path)
    _refuse_shard(path)
    tensors = {name: Plain(file, entry) for name, entry in file.tensors.items()}
    refuse_adapter(tensors, str(path))
    if (beside := _beside(path, file)) is not None:
        return beside
    parameters = join_quantised(tensors, {}, where=str(path))
    family, parts = recognise(parameters, where=str(path))
    return OpenBase(family, parts, [file], "it is one file of weights, without tokenizer and scheduler")


def _refuse_shard(path: Path) -> None:
    if shard := _SHARD.fullmatch(path.stem):
        whole = (
            f"give the folder {path.parent}" if path.suffix != ".gguf" else "join them with llama-gguf-split --merge"
        )
        raise Stop(f"{path}: this is part {int(shard[2])} of {int(shard[3])} of a model; {whole}")


def _beside(path: Path, file: WeightFile) -> OpenBase | None:
    """The model that config.json beside a file describes, None where it describes none or the file is another's."""
    folder = path.parent
    config = read_config(folder / "config.json")
    preferred = path.stem.removesuffix(".fp16") in _PREFERRED
    if not preferred and len(list(folder.glob("*.safetensors"))) > 1:
        return None
    if "_class_name" in config:
        for component in ("unet", "transformer"):
            if (family := _family_around(folder, component)) is not None:
                parts = {component: _canonical(family, component, folder, [file])}
                return OpenBase(family, parts, [file], _one_part(component))
    if "model_type" in config:
        for family in FAMILIES.values():
            if family.recognises(folder):
                return OpenBase(family, {"model": _canonical(family, "model", folder, [file])}, [file])
    return None


def _gguf(path: Path) -> OpenBase:
    _refuse_shard(path)
    gguf = open_gguf(path)
    why = "it is a GGUF file, which only llama.cpp and its like can run"
    if (family := speaks_of(gguf)) is not None:
        return OpenBase(family, {"model": language_model(gguf, where=str(path))}, [gguf.file], why)
    family, parts = recognise(gguf.parameters, where=str(path))
    return OpenBase(family, parts, [gguf.file], why)


def weight_paths(folder: Path) -> list[Path]:
    """Gives the weight files of one component: one file, or the shards that an index names. Raises Stop."""
    found = {path.name: path for path in sorted(folder.glob("*.safetensors*"))}
    for stem in _PREFERRED:
        for precision in ("", ".fp16"):
            if (index := found.get(f"{stem}.safetensors.index{precision}.json")) is not None:
                return _shards(index)
            if (single := found.get(f"{stem}{precision}.safetensors")) is not None:
                return [single]
    candidates = [path for name, path in found.items() if name.endswith(".safetensors")]
    if len(candidates) == 1 and not _SHARD.fullmatch(candidates[0].stem):
        return candidates
    if candidates and all(_SHARD.fullmatch(path.stem) for path in candidates):
        raise Stop(f"{folder}: found {', '.join(found)}; the list of the parts (….index.json) is missing; {_AGAIN}")
    if unfinished := [name for name in found if Path(name).suffix.lower() in _UNFINISHED]:
        raise Stop(f"{folder}: the download of {unfinished[0]} was not finished; {_AGAIN}")
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLE_SUFFIXES]
    seen = ", ".join(found) or "no safetensors file" + (f" beside {pickles[0]}, a pickle" if pickles else "")
    also = "; name the file itself where it is another" if candidates else ""
    raise Stop(
        f"{folder}: found {seen}; expected is one of {', '.join(f'{stem}.safetensors' for stem in _PREFERRED)}{also}"
    )


def _shards(index: Path) -> list[Path]:
    if index.stat().st_size > _INDEX_BYTES:
        raise Stop(f"{index}: the list of shards is larger than {_INDEX_BYTES} bytes; {_AGAIN}")
    try:
        names = Counter(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Stop(f"{index}: this is no list of shards ({error!r}); {_AGAIN}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise Stop(f"{index}: shard {name!r} is not a file name in the same folder; {_AGAIN}")
    missing = [name for name in sorted(names) if not (index.parent / name).is_file()]
    if missing:
        raise Stop(f"{index}: {len(missing)} of its {len(names)} files are missing ({missing[0]} …); {_AGAIN}")
    _expect_tensors(index, names)
    return [index.parent / name for name in sorted(names)]


def _expect_tensors(index: Path, names: Mapping[str, int]) -> None:
    """Raises Stop where a file of the list holds fewer tensors than the list says: another model's, or an older one."""
    for name, wanted in names.items():
        held = len(open_weight_file(index.parent / name).tensors)
        if held < wanted:
            raise Stop(f"{index}: {name} holds {held} tensors where {wanted} are listed; {_AGAIN}")
