"""A JSON schema, in what Prefect's form can show, made out of the very configs that check params.yaml.

The form shows a field for each property, a list of choices for an enum, and a row of tabs for anyOf. It writes every default
that it finds into what is submitted, so the schema has none: what is left empty stays as the preset has it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm.config import Config
from tasks.core.config import MODELS, SHARED
from tasks.core.yaml import read_yaml
from tasks.runner.rooms import config_of

Schema = dict[str, Any]
# The first tab of a section and of a method: nothing is changed.
AS_IT_IS: Schema = {"type": "null", "title": "as it is"}
# How the form says yes and no.
WORDS = {"true": True, "false": False}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def configs(root: Path) -> dict[str, type[Config]]:
    """The config of each section that configures a stage, in the order of dvc.yaml; a stage without a room has none."""
    names = [name for name in read_yaml(root / "dvc.yaml")["stages"] if find_spec(f"tasks.{name}")]
    return {name: config_of(name) for name in names}


def sections_schema(root: Path) -> Schema:
    """An object of one optional property a section; those that several stages share come first. `seed` is no section."""
    asked: Schema = {
        "type": "array",
        "items": {"type": "string"},
        "description": "to evaluate; the last is the final one",
    }
    shared = {MODELS: _property(MODELS, asked, {})}
    own: dict[str, Schema] = {}
    for name, config in configs(root).items():
        schema = config.model_json_schema()
        definitions = schema.get("$defs", {})
        fields = schema["properties"]
        for key in SHARED:
            if key in fields and key != "seed" and key not in shared:
                shared[key] = _property(key, fields[key], definitions)
        schema = {**schema, "properties": {key: field for key, field in fields.items() if key not in SHARED}}
        own[name] = _property(name, schema, definitions)
    closed = {name: field if "anyOf" in field else _tabs(name, [field]) for name, field in {**shared, **own}.items()}
    return {"type": "object", "properties": closed}


def _property(key: str, schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A field under its key in params.yaml, without default; nothing in it is required."""
    schema = _resolved(schema, definitions)
    if "anyOf" in schema:  # `X | None`: leaving it empty is how the form says None
        about = {name: value for name, value in schema.items() if name != "anyOf"}
        [first, *_] = [option for option in schema["anyOf"] if option.get("type") != "null"]
        schema = {**_resolved(first, definitions), **about}
    if "discriminator" in schema:
        tag = schema["discriminator"]["propertyName"]
        methods = [
            _method(name, tag, {"$ref": reference}, definitions)
            for name, reference in schema["discriminator"]["mapping"].items()
        ]
        return _tabs(key, methods, schema.get("description"))
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {}).items()
        properties = {name: _property(name, field, definitions) for name, field in fields if "const" not in field}
        return {"type": "object", "title": key, "properties": properties}
    found: Schema = {name: schema[name] for name in ("type", "enum", *BOUNDS) if name in schema}
    if kind == "boolean":  # a switch could not be left alone, and the form does not show that `false` is chosen
        found |= {"type": "string", "enum": list(WORDS)}
    if kind == "array":
        found["items"] = _property("item", schema.get("items", {}), definitions)
    return {**found, "title": key, **_described(schema)}


def _method(name: str, tag: str, schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A tab for a method: its name as the one choice, which the form then submits, its hyperparameters, then groups of them.

    A group repeats names of hyperparameters (`lr` of `embedding`), and the first `lr` of a form is taken for the method's.
    """
    found = _property(name, schema, definitions)
    named = {tag: {"type": "string", "enum": [name], "default": name, "title": tag}}
    groups_last = sorted(found["properties"].items(), key=lambda item: "properties" in item[1])
    return {**found, "properties": {**named, **dict(groups_last)}}


def _tabs(key: str, choices: list[Schema], description: str | None = None) -> Schema:
    return {"anyOf": [AS_IT_IS, *choices], "title": key, **({"description": description} if description else {})}


def _described(schema: Schema) -> Schema:
    """What the field says of itself, and its bounds, which the form does not show."""
    bounds = [f"{words} {schema[name]:g}" for name, words in BOUNDS.items() if name in schema]
    text = "; ".join(filter(None, [schema.get("description"), ", ".join(bounds)]))
    return {"description": text} if text else {}


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    while "$ref" in schema:
        reference = definitions[schema["$ref"].removeprefix("#/$defs/")]
        schema = {**reference, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
