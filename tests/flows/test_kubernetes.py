"""The pool of jobs on Kubernetes: prefect.yaml's values in flows/agents/kubernetes.json, rendered as the worker would, and checked."""

import json
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
import yaml

from tests.project import ROOT

TEMPLATE = json.loads((ROOT / "flows" / "agents" / "kubernetes.json").read_text())
[CLUSTER] = [
    found
    for found in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    if found["work_pool"]["name"] == "cluster"
]
VALUES = CLUSTER["work_pool"]["job_variables"]
missing = find_spec("prefect_kubernetes") is None
needs_library = pytest.mark.skipif(
    missing, reason="prefect-kubernetes is not installed (pip install prefect-kubernetes)"
)


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    """The job that the worker would create for a run with these values: as from_template_and_values does, which asks a server
    about references to blocks and variables too, of which there are none."""
    from prefect.client.schemas.objects import FlowRun
    from prefect.utilities.templating import apply_values
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration as Configuration

    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="pretrain")
    defaults = Configuration._get_base_config_defaults(TEMPLATE["variables"]["properties"])
    found = Configuration(**apply_values(TEMPLATE["job_configuration"], defaults | values))
    found.prepare_for_flow_run(run)
    return found.job_manifest


def unknown(value: Any, kind: str, models: Any, path: str = "") -> list[str]:
    """Fields that Kubernetes' own model of this kind does not have; its types are those of the model's openapi_types."""
    if kind.startswith("list["):
        return [
            name for index, part in enumerate(value) for name in unknown(part, kind[5:-1], models, f"{path}[{index}]")
        ]
    model = getattr(models, kind, None)
    if model is None:
        return []
    fields = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    return [f"{path}.{name}" for name in value if name not in fields] + [
        found
        for name, part in value.items()
        if name in fields
        for found in unknown(part, fields[name], models, f"{path}.{name}")
    ]


def test_the_values_are_what_the_template_asks_for() -> None:
    jsonschema.validate(VALUES, TEMPLATE["variables"])
    assert set(VALUES) <= set(TEMPLATE["variables"]["properties"])
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'integer'"):
        jsonschema.validate(VALUES | {"gpus": "many"}, TEMPLATE["variables"])


@pytest.mark.parametrize(
    "name", ["command", "env", "working_dir", "image", "secret", "namespace", "service_account_name"]
)
def test_what_a_job_runs_and_as_whom_is_not_a_runs_to_say(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="Additional properties are not allowed"):
        jsonschema.validate(VALUES | {name: "x"}, TEMPLATE["variables"])


def test_every_variable_is_used_and_every_used_one_is_declared() -> None:
    text = json.dumps(TEMPLATE["job_configuration"])
    used = {part.split("}}")[0].strip() for part in text.split("{{")[1:]}
    assert used == set(TEMPLATE["variables"]["properties"])


@needs_library
def test_the_job_is_one_of_kubernetes_and_asks_for_the_gpus() -> None:
    from kubernetes_asyncio.client import models

    job = rendered(VALUES | {"gpus": 2})
    assert unknown(job, "V1Job", models) == []
    [container] = job["spec"]["template"]["spec"]["containers"]
    # the image's own entry point is the command `tokenmill`, whose place the job's takes
    assert container["command"] + container["args"] == ["python", "-P", "-m", "flows.agents.engine", "stage"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["PYTHONPATH"] == "/tokenmill" and "PREFECT__FLOW_RUN_ID" in env
    assert job["metadata"]["generateName"] == "pretrain-" and job["spec"]["backoffLimit"] == 0
    assert "{{" not in json.dumps(job)


@needs_library
def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    from kubernetes_asyncio.client import models

    job = rendered(VALUES)
    job["spec"]["template"]["spec"]["containers"][0]["gpu"] = 1
    assert unknown(job, "V1Job", models) == [".spec.template.spec.containers[0].gpu"]
