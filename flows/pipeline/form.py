"""The form that starts a run in the Prefect UI: its fields, and what comes back as overrides of params.yaml.

Prefect takes a field's description from the JSON schema of its type alone, so each type here carries the schema it is shown by.
Flows check the values, with one line a mistake; the form refuses what its schema forbids before a run is made.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect.client.orchestration import get_client
from pydantic import WithJsonSchema

from flows.environment import ROOT
from flows.params.compose import CURRENT, presets
from flows.pipeline.form_schema import AS_IT_IS, WORDS, sections_schema
from flows.settings import POOLS
from tasks.core.config import ConfigError, read_params
from tasks.core.yaml import read_yaml
from tasks.runner.graph import items_of

HERE = "here"


def target_names(root: Path) -> list[str]:
    """What may be a target: every stage, and the name of a repeated one for all of it. The form must show, and say what is
    wrong, with a params.yaml that cannot be read too: what a stage is repeated over is left out then."""
    found = []
    for stage, body in read_yaml(root / "dvc.yaml")["stages"].items():
        try:
            items = items_of(body, read_params(root / "params.yaml")) if "foreach" in body else []
        except ConfigError:
            items = []
        found += [stage, *(f"{stage}@{item}" for item in items)]
    return found


def choose_where(where: str) -> None:
    """Have the stages that ask for a machine of a pool sent to this one; HERE leaves that to TOKENMILL_POOLS as it is.

    Raises ConfigError unless it is HERE or the name of a work pool that the Prefect server has.
    """
    if where == HERE:
        return
    with get_client(sync_client=True) as client:
        pools = sorted(pool.name for pool in client.read_work_pools())
    if where not in pools:
        raise ConfigError(
            f"WHERE: no work pool {where!r} (allowed: {', '.join([HERE, *pools])}); make agent POOL=... makes one"
        )
    os.environ[POOLS.name] = where


def as_overrides(sections: dict[str, Any]) -> list[str]:
    """`section={...}` for each section in which something was set, as flows/params/compose.py reads them."""
    found = {name: _without_empty(values) for name, values in sections.items()}
    return [f"{name}={json.dumps(values)}" for name, values in found.items() if values not in (None, {})]


def _without_empty(values: Any) -> Any:
    """The values without those that were left empty, whole objects of them too; yes and no as such."""
    if isinstance(values, dict):
        return dict(_filled(values))
    if isinstance(values, list):
        return [_without_empty(value) for value in values]
    return WORDS.get(values, values) if isinstance(values, str) else values


def _filled(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        kept = _without_empty(value)
        if kept is not None and kept != {}:
            yield key, kept


def _shown(description: str, **schema: Any) -> WithJsonSchema:
    return WithJsonSchema({**schema, "description": description})


_text = {"type": "string"}
Preset = Annotated[
    str, _shown("a file of presets/, or current: params.yaml as it is", **_text, enum=[CURRENT, *presets(ROOT)])
]
Targets = Annotated[
    list[str],
    _shown(
        "stages to bring up to date, with what they need; none: all",
        type="array",
        items={**_text, "enum": target_names(ROOT)},
    ),
]
Force = Annotated[bool, _shown("run the stages even when nothing has changed", type="boolean")]
Seed = Annotated[  # tabs: the form submits null for what is left alone, and the server takes null for no integer
    int | None,
    _shown("of everything random", anyOf=[AS_IT_IS, {"type": "integer", "minimum": 0, "title": "a number"}]),
]
Where = Annotated[str, _shown(f"{HERE}: where `make ui` runs; else the work pool for stages that ask for one", **_text)]
Publish = Annotated[
    Literal["no", "after approval", "always"],
    _shown(
        "the final model as `champion`; after approval: the run waits until somebody decides",
        **_text,
        enum=["no", "after approval", "always"],
    ),
]
Overrides = Annotated[
    list[str],
    _shown(
        "values to change, such as rl.steps=50, one an entry; they win over the sections", type="array", items=_text
    ),
]
Sections = Annotated[
    dict[str, Any], _shown("values to change, by section of params.yaml; what is empty stays", **sections_schema(ROOT))
]
