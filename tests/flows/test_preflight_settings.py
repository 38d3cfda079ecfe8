"""What preflight says of the environment's settings: values that are none, names that there are not, ranks that do not fit."""

import pytest

from flows.preflight.settings import check_ranks, check_settings
from tests.flows.preflight_project import named, params_of

TRAINED = ("pretrain", "sft", "rl", "distill")  # of the default run
SETTINGS = {
    "TOKENMILL_SHARD_WORKERS": "none",
    "TOKENMILL_CHECKPOINT_SECONDS": "often",
    "TOKENMILL_RUNNER": "flows.nowhere:on_dask",
    "TOKENMILL_PARALLEL": "zero9",
    "TOKENMILL_RESUME": "yes",
    "TOKENMILL_AGENT_DEADLINE": "0",
    "TOKENMILL_MLFLOW_PORT": "70000",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SETTINGS[name])
    assert named(list(check_settings()), name, repr(SETTINGS[name]))


def test_a_name_that_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_THREAD", "2")
    monkeypatch.setenv("TOKENMILL_SPEED", "high")
    found = list(check_settings())
    assert named(found, "TOKENMILL_THREAD", "did you mean TOKENMILL_THREADS?") and named(found, "TOKENMILL_SPEED")


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_RANKS", "4")
    params = params_of(*(f"{stage}.shards=4" for stage in TRAINED))
    for gpus, kind, what in ((0, "exact", []), (1, "exact", ["1 GPU"]), (2, "ddp", ["2 GPUs"]), (4, "exact", [])):
        monkeypatch.setattr("flows.preflight.settings.gpus", lambda gpus=gpus: gpus)
        monkeypatch.setenv("TOKENMILL_PARALLEL", kind)
        wanted = [f"4 ranks need a GPU each, and this machine shows {there}" for there in what]
        assert [(finding.where, finding.what) for finding in check_ranks(params, TRAINED)] == [
            ("TOKENMILL_RANKS", line) for line in wanted
        ]


def test_more_ranks_than_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_RANKS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = list(check_ranks(params_of("rl.shards=4"), TRAINED))
    assert {finding.where for finding in found} == {f"params.yaml: {s}.shards" for s in ("pretrain", "sft", "distill")}
