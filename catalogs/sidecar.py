"""What lies beside an adapter file: JSON of Civitai and of the tools that use it, and model cards with YAML on top.

Sidecars are written by strangers and by a dozen tools, so everything is optional, nothing is trusted to have its
type, and what cannot be read becomes a note. Where several speak of one adapter, the first one that knows a thing is
believed, but a prohibition counts whoever states it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import yaml

from catalogs.entry import Terms

JSON_BYTES: Final = 4 << 20
CARD_BYTES: Final = 1 << 20
FRONT_MATTER_CHARACTERS: Final = 64 << 10
TEXT_CHARACTERS: Final = 500
LIST_ITEMS: Final = 16
FRONT_MATTER: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
SCENE: Final = re.compile(r"(?:an?|the)(?: \S+){3,}", re.IGNORECASE)
"""What an instance prompt looks like that can be drawn: "a photo of sks dog", but not "lit from the right"."""
SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
WITHDRAWN_MODES: Final = ("archived", "takendown")
NO_LICENCE: Final = ("", "unknown", "none", "n/a")

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one or several sidecars say; None, () and False where they say nothing."""

    name: str | None = None
    base_label: str | None = None
    licence: str | None = None
    allow_derivatives: bool | None = None
    allow_commercial_use: tuple[str, ...] = ()
    allow_no_credit: bool | None = None
    allow_different_licence: bool | None = None
    trigger_words: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    sha256: str | None = None
    origin: str | None = None
    creator: str | None = None
    kind: str | None = None
    real_person: bool = False
    minor: bool = False
    gated: bool = False
    opt_out: bool = False
    notes: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        """The terms of use among these facts."""
        return Terms(
            licence=self.licence,
            allow_derivatives=self.allow_derivatives,
            allow_commercial_use=self.allow_commercial_use,
            allow_no_credit=self.allow_no_credit,
            allow_different_licence=self.allow_different_licence,
        )


PERMISSIONS: Final = ("allow_derivatives", "allow_no_credit", "allow_different_licence")


def merge(facts: Iterable[Facts]) -> Facts:
    """Joins facts in order of trust: the first to know a thing is believed, a permission denied by any is denied.

    Example prompts do not contradict each other: those of all are kept, the most trusted first.
    """
    known = tuple(facts)
    joined: dict[str, object] = {}
    for field in fields(Facts):
        said = [getattr(one, field.name) for one in known]
        joined[field.name] = next((value for value in said if value not in (None, (), False)), field.default)
        if field.name in PERMISSIONS and False in said:
            joined[field.name] = False
    joined["prompts"] = _examples(prompt for one in known for prompt in one.prompts)
    joined["notes"] = tuple(note for one in known for note in one.notes)
    return Facts(**joined)  # type: ignore[arg-type]


def read_sidecar(path: Path, *, weights_name: str) -> Facts:
    """Reads one sidecar, JSON or model card; `weights_name` picks the version it speaks of where it lists several.

    Never raises: a sidecar that cannot be read gives facts with nothing but a note.
    """
    try:
        if path.suffix.lower() == ".md":
            return facts_of_card(_front_matter(_read_text(path, CARD_BYTES)))
        values = json.loads(_read_text(path, JSON_BYTES))
        if not isinstance(values, dict):
            return Facts(notes=(f"{path.name}: holds a {type(values).__name__} where an object belongs",))
        return facts_of_json(values, weights_name=weights_name)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as problem:
        return Facts(notes=(f"{path.name}: cannot be read ({_text(str(problem)) or type(problem).__name__})",))


def facts_of_json(values: Values, *, weights_name: str = "") -> Facts:
    """Reads the JSON of Civitai (a model or one version of it) and of the tools that keep it, with their own keys."""
    version = _version(values, weights_name)
    nested = _object(values.get("civitai"))
    model = _object(values.get("model")) or _object(nested.get("model"))
    parts: tuple[Values, ...] = (version, values, nested, model)
    own_file = _own_file(parts, weights_name)
    return Facts(
        name=_text(model.get("name")) or _first_text((values,), "model_name", "ModelName") or _model_name(values),
        base_label=_first_text(parts, "baseModel", "base_model", "BaseModel", "sd version"),
        licence=_licence(_first_text(parts, "license", "licence")),
        allow_derivatives=_permission(parts, "allowDerivatives"),
        allow_commercial_use=_commercial_use(_first(parts, "allowCommercialUse")),
        allow_no_credit=_permission(parts, "allowNoCredit"),
        allow_different_licence=_permission(parts, "allowDifferentLicense"),
        trigger_words=_texts(_first(parts, "trainedWords", "TrainedWords", "activation text")),
        prompts=_examples(_prompt_of(image) for image in _images(parts)),
        sha256=_sha256(own_file, values),
        origin=_origin(version, values, nested),
        creator=_first_text((*parts, *(_object(part.get("creator")) for part in parts)), "username", "creator"),
        kind=_kind(_first_text((model, values, nested), "type", "ModelType")),
        real_person=_is_true(parts, "poi"),
        minor=_is_true(parts, "minor"),
        gated=_is_gated(parts),
        opt_out=_is_true(parts, "optOut", "opt_out")
        or (_first_text(parts, "mode") or "").casefold() in WITHDRAWN_MODES,
    )


def facts_of_card(front: Values) -> Facts:
    """Reads the YAML front matter of a model card."""
    tags = tuple(tag.casefold() for tag in _texts(front.get("tags"), limit=200))
    licence = _text(front.get("license"))
    if licence is not None and licence.casefold() == "other":
        licence = _text(front.get("license_name")) or licence
    widgets = front.get("widget")
    instance = _texts(front.get("instance_prompt"))
    scenes = [text for text in instance if SCENE.fullmatch(text)]
    return Facts(
        name=_text(front.get("model_name")),
        base_label=next(iter(_texts(front.get("base_model"))), None),
        licence=_licence(licence),
        trigger_words=instance,
        prompts=_examples([*map(_widget_text, widgets if isinstance(widgets, list) else [widgets]), *scenes]),
        kind="lora" if "lora" in tags else None,
        gated=any(str(key).startswith("extra_gated") for key in front),
        opt_out="opt-out" in tags,
    )


def clean(text: str) -> str:
    """Returns a stranger's text on one line: no control or direction characters, at most 500 characters."""
    plain = "".join(" " if character.isspace() else character for character in text[: 4 * TEXT_CHARACTERS])
    shown = "".join(character for character in plain if not unicodedata.category(character).startswith("C"))
    return " ".join(shown.split())[:TEXT_CHARACTERS]


def _read_text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return content.decode("utf-8-sig")


def _front_matter(text: str) -> Values:
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}
    if len(found.group(1)) > FRONT_MATTER_CHARACTERS:
        raise ValueError(f"front matter longer than {FRONT_MATTER_CHARACTERS} characters")
    return _object(yaml.safe_load(found.group(1)))


def _object(value: object) -> Values:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return clean(value) or None if isinstance(value, str) else None


def _texts(value: object, *, limit: int = LIST_ITEMS) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else _list(value)
    cleaned = (_text(word) for word in words[: 4 * limit])
    return tuple(dict.fromkeys(word.strip(", ") for word in cleaned if word))[:limit]


def _examples(said: Iterable[object]) -> tuple[str, ...]:
    """Returns example prompts, each once; sites write "-" and the like where there is none."""
    return _texts([text for text in said if isinstance(text, str) and any(letter.isalnum() for letter in text)])


def _images(parts: Iterable[Values]) -> list[object]:
    """Returns the images of all parts: one tool keeps its user's own pictures beside those of the catalogue."""
    return [image for part in parts for key in ("images", "customImages") for image in _list(part.get(key))]


def _prompt_of(image: object) -> object:
    """Returns the prompt of an image; what the site says about it lies in `meta`, of late in a `meta` within."""
    meta = _object(_object(image).get("meta"))
    return meta.get("prompt") or _object(meta.get("meta")).get("prompt")


def _widget_text(widget: object) -> object:
    """Returns the prompt of a widget: its text, or what the user of a chat says first."""
    values = _object(widget)
    messages = map(_object, _list(values.get("messages")))
    asked = (message.get("content") for message in messages if message.get("role") == "user")
    return values.get("text") or next(asked, None)


def _first(parts: Iterable[Values], *keys: str) -> object:
    found = (part[key] for part in parts for key in keys if key in part)
    return next((value for value in found if value not in (None, "", [])), None)


def _first_text(parts: Iterable[Values], *keys: str) -> str | None:
    found = (_text(part.get(key)) for part in parts for key in keys)
    return next((text for text in found if text), None)


def _permission(parts: Iterable[Values], key: str) -> bool | None:
    said = [part[key] for part in parts if key in part]
    if any(value is False or str(value).casefold() in ("false", "0") for value in said):
        return False
    return True if any(value is True or str(value).casefold() in ("true", "1") for value in said) else None


def _is_true(parts: Iterable[Values], *keys: str) -> bool:
    return any(_permission(parts, key) for key in keys)


def _commercial_use(value: object) -> tuple[str, ...]:
    """Returns the allowed uses from a list, one word, or "{Image,Sell}": catalogues have used all three."""
    words = value.strip("{} ").split(",") if isinstance(value, str) else _list(value)
    return tuple(word for word in _texts(list(words)) if word.casefold() != "none")


def _licence(text: str | None) -> str | None:
    return None if text is None or text.casefold() in NO_LICENCE else text


def _kind(text: str | None) -> str | None:
    return text.casefold() if text else None


def _is_gated(parts: Iterable[Values]) -> bool:
    known = tuple(parts)
    control = _first_text(known, "usageControl")
    is_early = (_first_text(known, "availability") or "").casefold() in ("earlyaccess", "private")
    return _is_true(known, "gated") or is_early or (control is not None and control.casefold() != "download")


def _version(values: Values, weights_name: str) -> Values:
    """Returns, of a model's versions, the one that lists a file of this name, else the newest, which comes first."""
    versions = [_object(version) for version in _list(values.get("modelVersions"))]
    own = (version for version in versions if _named((version,), weights_name))
    return next(own, versions[0] if versions else {})


def _own_file(parts: Iterable[Values], weights_name: str) -> Values:
    """Returns the listed file of this name, or the only one there is: people rename what they download."""
    known = tuple(parts)
    files = [_object(file) for part in known for file in _list(part.get("files"))]
    return _named(known, weights_name) or (files[0] if len(files) == 1 else {})


def _named(parts: Iterable[Values], weights_name: str) -> Values:
    files = (_object(file) for part in parts for file in _list(part.get("files")))
    return next((file for file in files if weights_name and file.get("name") == weights_name), {})


def _sha256(own_file: Values, values: Values) -> str | None:
    hashes = (_object(own_file.get("hashes")), _object(values.get("Hashes")), values)
    declared = _first_text(hashes, "SHA256", "sha256")
    return declared.lower() if declared and SHA256.fullmatch(declared) else None


def _origin(version: Values, values: Values, nested: Values) -> str | None:
    """Returns the page of a Civitai version: only numbers go into the address."""
    for part in (version, nested, values):
        version_id, model_id = part.get("id"), part.get("modelId") or (values.get("id") if part is version else None)
        if isinstance(version_id, int) and isinstance(model_id, int):
            return f"https://civitai.com/models/{model_id}?modelVersionId={version_id}"
    return None


def _model_name(values: Values) -> str | None:
    """Returns the name of a whole model; in the JSON of one version, `name` is only "v1.0" and the like."""
    return _text(values.get("name")) if "modelVersions" in values else None
