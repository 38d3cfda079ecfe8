"""What is no number is near to itself alone, wherever it stands, and columns are judged whatever their kind."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from flows.replay.tolerance import ToleranceResult, judge, of_arrays, of_series

NAN, INF = math.nan, math.inf
OTHERS = [NAN, INF, -INF]


def models(folder: Path, **second: list[float]) -> ToleranceResult:
    """The verdict on models of the tensors a and b, of which the second run's are these where they are given."""
    for name, tensors in (("left", {}), ("right", second)):
        (folder / name).mkdir(parents=True)
        values = {"a": [1.0, 2.0], "b": [3.0, 4.0], **tensors}
        save_file({k: torch.tensor(v) for k, v in values.items()}, folder / name / "model.safetensors")
    return judge(folder / "left", folder / "right")


def curves(folder: Path, left: list[Any], right: list[Any]) -> ToleranceResult:
    for name, losses in (("left", left), ("right", right)):
        (folder / name).mkdir(parents=True)
        lines = [json.dumps({"step": step, "loss": loss, "lr": 0.1}) for step, loss in enumerate(losses)]
        (folder / name / "curves.jsonl").write_text("".join(line + "\n" for line in lines))
    return judge(folder / "left", folder / "right")


def tables(folder: Path, left: pa.Table, right: pa.Table) -> ToleranceResult:
    for name, table in (("left", left), ("right", right)):
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "rollouts.parquet")
    return judge(folder / "left", folder / "right")


@pytest.mark.parametrize("value", OTHERS)
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_tensor_of_what_is_no_number_is_not_near_one_of_numbers(name: str, value: float, tmp_path: Path) -> None:
    near = {"a": [1.000001, 2.0], "b": [3.000001, 4.0]}
    assert models(tmp_path / "near", **near).within
    found = models(tmp_path / "far", **near | {name: [value, value]})
    assert not found.within and str(found) == f"diverged: model.safetensors {name} must be equal, and is not"


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [*OTHERS, None])
def test_a_loss_that_is_no_number_is_near_to_itself_alone(value: float | None, place: int, tmp_path: Path) -> None:
    broken: list[float | None] = [1.0, 2.0, 3.0]
    broken[place] = value
    assert not curves(tmp_path / "right", [1.0, 2.0, 3.0], broken).within
    assert not curves(tmp_path / "left", broken, [1.0, 2.0, 3.0]).within
    near = [x if x is None else x * 1.00001 for x in broken]
    assert curves(tmp_path / "both", broken, near).within
    other = [x if x is None else x * 2 for x in broken]
    assert not curves(tmp_path / "another", broken, other).within


@given(*[arrays(np.float64, 3, elements=st.floats())] * 2)
def test_no_distance_is_no_number(one: np.ndarray, other: np.ndarray) -> None:
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        for far in (of_arrays(one, other), of_series(one, other)):
            assert far is None or far >= 0
        assert of_arrays(one, one) == of_series(one, one) == 0


ROLLOUTS: dict[str, Any] = {
    "ids": [[1, 2], [], [3], None],
    "logps": [[-0.1, -0.2], [], [-0.3], [-0.4]],
    "reward": [1.0, None, 0.5, None],
    "kind": [1, None, 2, 3],
    "texts": [[{"role": "user", "parts": ["x"]}], [], [{"role": "user", "parts": ["y", "z"]}], []],
}


@pytest.mark.parametrize(
    ("changed", "within"),
    [
        ({"logps": [[-0.1, -0.2], [], [-0.300001], [-0.4]]}, True),
        ({"logps": [[-0.1, -0.2], [], [-0.9], [-0.4]]}, False),
        ({"logps": [[-0.1], [-0.2], [-0.3], [-0.4]]}, False),
        ({"reward": [1.000001, None, 0.5, None]}, True),
        ({"reward": [1.0, 0.0, 0.5, None]}, False),
        ({"ids": [[1, 2], [], [4], None]}, False),
        ({"ids": [[1, 2], [], [3], []]}, False),
        ({"kind": [1, None, 2, 4]}, False),
        ({"kind": [1, 3, 2, 3]}, False),
        ({"texts": [[{"role": "user", "parts": ["x"]}], [], [{"role": "user", "parts": ["y", "!"]}], []]}, False),
    ],
)
def test_columns_of_lists_and_with_nulls_have_a_tolerance(changed: dict, within: bool, tmp_path: Path) -> None:
    ours = {**ROLLOUTS, "loss": [1.0, 2.0, 3.0, 4.0]}
    other = {**ours, "loss": [1.000001, 2.0, 3.0, 4.0], **changed}
    assert tables(tmp_path, pa.table(ours), pa.table(other)).within is within


def test_ids_of_more_than_floats_can_hold_must_be_equal(tmp_path: Path) -> None:
    """As floats, which NumPy makes of integers with nulls, these would be one."""
    one, other = (pa.table({"id": [2**60 + n, None], "x": [1.0, 1.0 + n * 1e-6]}) for n in (0, 1))
    found = tables(tmp_path, one, other)
    assert found == ToleranceResult(None, "rollouts.parquet id")
