"""params.yaml to typed configs: one line per mistake, with file, key, value and the nearest valid name."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from lm.config import Config, ConfigError
from lm.inputs.hashed import check_is_hashed
from tasks.core.libraries import SECTION
from tasks.core.unseen import UNSEEN, unseen_keys
from tasks.core.yaml import YAMLError, read_yaml

# Sections that several stages read; each is a field of the same name in their configs.
SHARED = ("seed", "problems", "checkpoint", "references", "conversations")
# The models that are asked for: each is evaluated, and the last one is what the pipeline is for.
MODELS = "models"
# What a model must reach to be published; no stage reads it.
GATES = "gates"
# The name of the model in data/checkpoint, which is somebody else's.
CHECKPOINT = "checkpoint"
StartModel = Annotated[
    str,
    Field(
        pattern="^[a-z0-9_]+$",
        description=f"the stage whose model this one begins with; {CHECKPOINT}: the Hugging Face model in data/{CHECKPOINT}",
    ),
]

Kind = TypeVar("Kind", bound=Config)


class Checkpoint(Config):
    """A model to start from, in our format or in that of Hugging Face, of what begins with a folder and not with a stage."""

    folder: str


class References(Config):
    """Texts that documents are compared with: what dedup and filter methods read lies in this folder."""

    folder: str = "data/references"


class Conversations(Config):
    """Conversations to learn from: what the sources named files read lies in this folder."""

    folder: str = "data/conversations"


def check_watched(slot: str, paths: list[str], folders: list[str]) -> None:
    """Raises ValueError for a path that is in none of the folders, or where DVC, which watches those, does not look, so that it
    would not see it change."""
    watched = [Path(os.path.abspath(folder)) for folder in folders]
    for path in paths:
        place = Path(os.path.abspath(path))
        holder = next((folder for folder in watched if place.is_relative_to(folder)), None)
        if holder is None:
            raise ValueError(
                f"{slot} reads {path}, which is in neither of {', '.join(folders)}: move it, or name its folder there"
            )
        try:
            check_is_hashed(place, holder)
        except ConfigError as error:
            raise ValueError(f"{slot} reads {path}: {error}") from None


def read_params(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """The sections of a params file. Raises ConfigError when it is missing, not YAML or not a mapping."""
    try:
        params = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `make pipeline PRESET=laptop` writes one") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: must be a mapping of one section a stage, not {type(params).__name__}")
    return params


def load(section: str, kind: type[Kind], params: dict[str, Any], path: Path | str = "params.yaml") -> Kind:
    """The config of one stage: its section, plus the shared sections that its config has a field for.

    Raises ConfigError with one line per mistake.
    """
    values = params.get(section)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {section}: must be a mapping (got {values!r}); it configures the stage {section}")
    shared = {name: params[name] for name in SHARED if name in kind.model_fields and name in params}
    try:
        config = kind.model_validate({**values, **shared})
    except ValidationError as error:
        lines = [_explain(path, section, kind, mistake, {**values, **shared}) for mistake in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    if unseen := unseen_keys(values, section):
        names = " or ".join(sorted(UNSEEN))
        lines = [
            f"{path}: {name}: DVC's run cache does not see keys called {names}; call it otherwise" for name in unseen
        ]
        raise ConfigError("\n".join(lines))
    return config


def unknown_sections(params: dict[str, Any], stages: list[str], path: Path | str = "params.yaml") -> list[str]:
    """One line for every section that no stage reads."""
    known = [*stages, *SHARED, MODELS, GATES, SECTION]
    return [
        f"{path}: {name}: no stage reads this section{_nearest(name, known)}" for name in params if name not in known
    ]


def _explain(path: Path | str, section: str, kind: type[Config], mistake: Any, values: Any) -> str:
    where = _without_tags(list(mistake["loc"]), values)
    if not (where and where[0] in SHARED and where[0] in kind.model_fields):
        where = [section, *where]
    what, value = mistake["type"], mistake["input"]
    if what == "extra_forbidden":
        allowed = _keys_at(kind, mistake["loc"][:-1])
        return f"{path}: {_dotted(where)}: unknown key{_nearest(str(where[-1]), allowed)} (got {value!r})"
    if what == "union_tag_invalid":
        context = mistake["ctx"]
        allowed = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{path}: {_dotted(where)}.name: no method {context['tag']!r}{_nearest(context['tag'], allowed)}"
    if what == "union_tag_not_found":
        return f"{path}: {_dotted(where)}: needs a `name` that says which method (got {value!r})"
    if what == "value_error":  # one of our own, which pydantic begins with "Value error, "
        return f"{path}: {_dotted(where)}: {mistake['ctx']['error']} (got {value!r})"
    return f"{path}: {_dotted(where)}: {mistake['msg'][0].lower() + mistake['msg'][1:]} (got {value!r})"


def _without_tags(loc: list[Any], values: Any) -> list[Any]:
    """The location as it stands in the file: pydantic adds the method's name after a field that holds a method."""
    where: list[Any] = []
    for index, part in enumerate(loc):
        if isinstance(values, dict) and part not in values and index < len(loc) - 1:
            continue
        where.append(part)
        values = (
            values[part]
            if isinstance(values, dict) and part in values
            else (values[part] if isinstance(values, list) and isinstance(part, int) else None)
        )
    return where


def _dotted(where: list[Any]) -> str:
    return ".".join(str(part) for part in where)


def _nearest(name: str, allowed: list[str]) -> str:
    near = get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (allowed: {', '.join(sorted(allowed))})"


def _keys_at(kind: type[Config], loc: tuple[Any, ...]) -> list[str]:
    """The keys allowed where a mistake was made, found by walking the JSON schema along its location."""
    schema = TypeAdapter(kind).json_schema()
    definitions, here = schema.get("$defs", {}), schema
    for part in loc:
        here = _deref(here, definitions)
        if isinstance(part, int):
            here = here.get("items", {})
        elif "discriminator" in here:
            here = {"$ref": here["discriminator"]["mapping"].get(part, "")}
        else:
            here = here.get("properties", {}).get(part, {})
    return list(_deref(here, definitions).get("properties", {}))


def _deref(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = definitions.get(schema["$ref"].removeprefix("#/$defs/"), {})
    return schema
