"""The form's schema: it can say what params.yaml can, sets nothing by itself, and what comes back is checked as ever."""

import json
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flows.params.compose import check, check_targets, compose, presets
from flows.pipeline.form_schema import WORDS, sections_schema
from tasks.core.config import ConfigError
from tasks.core.libraries import SECTION as LIBRARIES
from tests.project import ROOT

SCHEMA = sections_schema(ROOT)
SECTIONS = SCHEMA["properties"]


@pytest.fixture(scope="module")
def form() -> ModuleType:
    """Imported here: it brings Prefect, seconds for each process that only collects these tests."""
    from flows.pipeline import form

    return form


def typed(values: Any) -> Any:
    """Values as the form submits them: yes and no are words, and what is None is left out."""
    if isinstance(values, dict):
        return {key: typed(value) for key, value in values.items() if value is not None}
    if isinstance(values, bool):
        return str(values).lower()
    return [typed(value) for value in values] if isinstance(values, list) else values


def defaults(schema: Any, path: str = "") -> list[str]:
    """Where a schema has a default."""
    found = [path] if isinstance(schema, dict) and "default" in schema else []
    parts = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    return found + [place for key, part in parts for place in defaults(part, f"{path}/{key}")]


def tabs(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What may be chosen besides leaving it as it is."""
    return [option for option in schema["anyOf"] if option["type"] != "null"]


@pytest.mark.parametrize("preset", presets(ROOT))
def test_the_form_can_say_every_preset_and_says_it_back(preset: str, form: ModuleType) -> None:
    composed = compose(ROOT, preset, [])
    params = {name: values for name, values in composed.items() if name != LIBRARIES}
    sections = {name: typed(values) for name, values in params.items() if name != "seed"}
    Draft202012Validator(SCHEMA).validate(sections)
    said = dict(line.split("=", 1) for line in form.as_overrides(sections))
    assert {name: json.loads(text) for name, text in said.items()} == without_none({**params, "seed": None})
    assert compose(ROOT, preset, form.as_overrides(sections)) == composed


def without_none(values: Any) -> Any:
    """The values that are some: the form cannot say None."""
    if isinstance(values, dict):
        return {key: without_none(value) for key, value in values.items() if value is not None}
    return [without_none(value) for value in values] if isinstance(values, list) else values


def test_an_untouched_form_changes_nothing(form: ModuleType) -> None:
    """Of all that it holds only a method's name has a default, which is what its tab stands for."""
    assert {place.rsplit("/", 1)[-1] for place in defaults(SCHEMA)} <= {"name", "kind"}
    assert form.as_overrides(dict.fromkeys(SECTIONS)) == []
    assert form.as_overrides({"rl": {"optimizer": None, "loss": {}, "steps": None}, "sft": {}}) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_method_is_a_tab_that_names_it(section: str, form: ModuleType) -> None:
    for option in tabs(SECTIONS[section]):
        for key, field in option.get("properties", {}).items():
            for method in tabs(field) if "anyOf" in field else ():
                tag = method["properties"].get("name") or method["properties"]["kind"]
                [name] = tag["enum"]
                [line] = form.as_overrides({section: {key: {"name": name}}})
                params = compose(ROOT, "laptop", [line])
                if "kind" not in method["properties"]:
                    assert params[section][key]["name"] == name and method["title"] == name


def test_fields_say_their_bounds_and_choices() -> None:
    [rl] = tabs(SECTIONS["rl"])
    assert rl["properties"]["prompts"] == {
        "type": "integer", "exclusiveMinimum": 0, "title": "prompts",
        "description": "problems a rollout; a multiple of minibatches; above 0",
    }  # fmt: skip
    assert rl["properties"]["precision"]["enum"] == ["auto", "fp32", "bf16"]
    [pretrain] = tabs(SECTIONS["pretrain"])
    assert pretrain["properties"]["within_documents"]["enum"] == list(WORDS)


def test_prefect_shows_every_field_with_words_and_refuses_what_cannot_be(form: ModuleType) -> None:
    from prefect.utilities.schema_tools.hydration import hydrate
    from prefect.utilities.schema_tools.validation import validate

    from flows.pipeline.flow import pipeline

    fields = pipeline.parameters.properties
    assert list(fields) == ["preset", "targets", "force", "seed", "where", "publish", "overrides", "sections"]
    assert all(field.get("description") for field in fields.values())
    assert fields["targets"]["items"]["enum"] == form.target_names(ROOT) and "evaluate@rl" in form.target_names(ROOT)
    schema = pipeline.parameters.model_dump_for_openapi()
    for asked, wrong in [
        ({"sections": {"rl": {"steps": 5, "clip": None}}}, True),
        ({"sections": {"rl": {"steps": 0}}}, True),
        ({"sections": {"rl": {"optimizer": {"name": "muonn"}}}}, True),
        ({"targets": ["../.."]}, True),
        ({"publish": "yes"}, True),
        ({"sections": {"rl": {"steps": 5}, "sft": None}, "targets": ["rl"], "seed": 1}, False),
    ]:
        assert bool(validate(hydrate(asked), schema, preprocess=True)) == wrong, asked


def test_what_comes_back_is_checked_as_any_override(form: ModuleType) -> None:
    with pytest.raises(ConfigError, match="rl.stepz: unknown key; did you mean 'steps'"):
        check(ROOT, compose(ROOT, "laptop", form.as_overrides({"rl": {"stepz": 5}})))
    with pytest.raises(ConfigError, match="no section 'rll'; did you mean 'rl'"):
        compose(ROOT, "laptop", form.as_overrides({"rll": {"steps": 5}}))
    form.choose_where(form.HERE)
    for name in form.target_names(ROOT):
        check_targets(ROOT, compose(ROOT, "laptop", []), [name])


def test_a_methods_own_fields_stand_before_groups_of_them() -> None:
    """As Prefect's form draws them: in the order of the schema."""
    [lion] = [
        method
        for method in tabs(SECTIONS["pretrain"]["anyOf"][-1]["properties"]["optimizer"])
        if method["title"] == "lion"
    ]
    names = list(lion["properties"])
    assert names[0] == "name" and names.index("lr") < names.index("embedding") < names.index("vectors")
