"""How far two outputs of a stage are apart that are not the same bytes: within what another machine may do, or beyond.

What is judged, by kind of file: tensors (.safetensors, .npy of floats) by the L2 norm of their difference relative to that of
the first; curves, metrics and columns of floats value by value, relative or absolute; all else (texts, ids, tokens, the plan,
configurations) must be equal. NaN and the infinities are near to themselves alone: what is finite in one of the two is too far.
Digests and samples of text are records of the rest, and are not judged.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flows.replay.first_difference import differing_files, files_in
from tasks.runner.json_lines import lines_of

RELATIVE, ABSOLUTE = 1e-2, 1e-3
NOT_JUDGED = ("digests.jsonl", "samples.jsonl")
# A name, and how far it is apart in units of what is allowed; None: it has to be equal, and is not.
Distance = tuple[str, float | None]


@dataclass(frozen=True)
class ToleranceResult:
    """worst: the largest distance in units of what is allowed, None where something differs that must not; where: its name."""

    worst: float | None
    where: str

    @property
    def within(self) -> bool:
        return self.worst is not None and self.worst <= 1

    def __str__(self) -> str:
        if self.worst is None:
            return f"diverged: {self.where} must be equal, and is not"
        if self.within:
            return f"within tolerance: {self.where} at {self.worst:.2g} of what is allowed"
        times = f"{self.worst:.2g}" if self.worst < 10 else f"{self.worst:,.0f}"
        return f"diverged: {self.where} differs {times} times as much as is allowed"


def judge(left: Path, right: Path) -> ToleranceResult:
    """How far two folders, or files, are apart that are not the same bytes."""
    one, other = files_in(left), files_in(right)
    found: list[Distance] = []
    for name in differing_files(left, right):
        if Path(name).name in NOT_JUDGED:
            continue
        if name not in one or name not in other:
            return ToleranceResult(None, name)
        found += [(f"{name} {part}".strip(), far) for part, far in distances(one[name], other[name])]
    return worst(found)


def worst(found: list[Distance]) -> ToleranceResult:
    """The distance of the part that is furthest apart."""
    unequal = [name for name, far in found if far is None]
    if unequal:
        return ToleranceResult(None, unequal[0])
    where, far = max(found, key=lambda distance: distance[1] or 0.0, default=("nothing that is judged", 0.0))
    return ToleranceResult(far, where)


def distances(left: Path, right: Path) -> Iterator[Distance]:
    """Distances between the parts of two files; a file of a kind that is not known has one part, which is not equal."""
    try:
        if left.suffix == ".safetensors":
            yield from of_dictionaries(load_file(left), load_file(right))
        elif left.suffix == ".npy":
            yield "", of_arrays(np.load(left, mmap_mode="r"), np.load(right, mmap_mode="r"))
        elif left.suffix == ".parquet":
            one, other = (pq.read_table(path, partitioning=None) for path in (left, right))
            yield from of_dictionaries(columns_of(one), columns_of(other))
        elif left.name == "curves.jsonl":
            yield from of_dictionaries(curves_of(left), curves_of(right))
        elif left.parent.name == "metrics":
            metrics = ({k: np.array([v]) for k, v in json.loads(path.read_text()).items()} for path in (left, right))
            yield from of_dictionaries(*metrics)
        else:
            yield "", None
    except (pa.ArrowException, SafetensorError, ValueError, OSError):
        yield "", None


def of_dictionaries(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Distance]:
    """Distances between the entries of the same names; None for a name that only one has."""
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            yield name, None
        elif isinstance(one[name], torch.Tensor):
            yield name, of_tensors(one[name], other[name])
        else:
            yield name, of_series(one[name], other[name])


def of_tensors(one: torch.Tensor, other: torch.Tensor) -> float | None:
    if one.shape != other.shape or one.dtype != other.dtype:
        return None
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else None
    return of_arrays(one.double().numpy(), other.double().numpy())


def of_arrays(one: np.ndarray, other: np.ndarray) -> float | None:
    """Distance of two arrays, ||a - b|| / ||a|| in units of RELATIVE; None where they must be equal and are not."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return None
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else None
    pair = finite(one, other)
    if pair is None:
        return None
    largest = max(float(np.abs(values).max(initial=0.0)) for values in pair) or 1.0
    one, other = (values / largest for values in pair)  # so that no square overflows
    apart, scale = np.linalg.norm((one - other).ravel()), np.linalg.norm(one.ravel())
    return float(apart / (RELATIVE * scale)) if scale else (0.0 if not apart else None)


def finite(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both in float64, with zeros where both are NaN or the same infinity; None where one alone is, and nothing is near it."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    numbers = np.isfinite(one) & np.isfinite(other)
    if not (numbers | (one == other) | (np.isnan(one) & np.isnan(other))).all():
        return None
    return np.where(numbers, one, 0.0), np.where(numbers, other, 0.0)


def of_series(one: np.ndarray, other: np.ndarray) -> float | None:
    """The largest |a - b| / max(ABSOLUTE, RELATIVE |a|); of values that are no numbers, whether they are equal."""
    if len(one) != len(other):
        return None
    if one.dtype.kind not in "fiu" or other.dtype.kind not in "fiu":
        return 0.0 if one.tolist() == other.tolist() else None
    if one.dtype.kind != "f" and other.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else None
    pair = finite(one, other)
    if pair is None:
        return None
    one, other = pair
    allowed = np.maximum(ABSOLUTE, RELATIVE * np.abs(one))
    return float(np.max(np.abs(one - other) / allowed, initial=0.0))


def columns_of(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns, those of lists in parts: the lengths, and the values of all lists after one another. A null among floats is
    NaN; what else has nulls is objects, which must be equal."""
    return {part: values for name in table.column_names for part, values in parts_of(name, table[name])}


def parts_of(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, np.ndarray]]:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from parts_of(f"{name} lengths", pc.list_value_length(column))
        yield from parts_of(name, pc.list_flatten(column))
    elif pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not column.null_count):
        yield name, column.to_numpy()
    else:
        objects = np.empty(len(column), object)
        objects[:] = column.to_pylist()
        yield name, objects


def curves_of(path: Path) -> dict[str, np.ndarray]:
    """Each curve, over the steps that have it; a null is NaN."""
    found: dict[str, list[float]] = {}
    for line in map(json.loads, lines_of(path.read_text(encoding="utf-8"))):
        for name, value in line.items():
            found.setdefault(name, []).append(math.nan if value is None else float(value))
    return {name: np.array(values) for name, values in found.items()}
