"""Where two files differ first, said as a person would look for it: shard, row and column, tensor and entry, line or byte."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

CHUNK = 2**20


def same_bytes(left: Path, right: Path) -> bool:
    """Whether two files hold the same bytes."""
    if left.stat().st_size != right.stat().st_size:
        return False
    if left.samefile(right):
        return True
    with left.open("rb") as one, right.open("rb") as other:
        return all(
            a == b
            for a, b in zip(iter(lambda: one.read(CHUNK), b""), iter(lambda: other.read(CHUNK), b""), strict=True)
        )


def files_in(place: Path) -> dict[str, Path]:
    """The files of a folder by their names in it; a file is in itself under no name."""
    if place.is_file():
        return {"": place}
    return {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}


def differing_files(left: Path, right: Path) -> list[str]:
    """The names of files that are in one of two folders only, or are not the same bytes."""
    one, other = files_in(left), files_in(right)
    return [
        name
        for name in sorted({*one, *other})
        if not (name in one and name in other and same_bytes(one[name], other[name]))
    ]


def first_difference(left: Path, right: Path, names: list[str]) -> str:
    """Where two folders, or files, differ first, in words. names: their files that differ."""
    one, other = files_in(left), files_in(right)
    name = names[0]
    if name not in one or name not in other:
        return f"{name}: only in {'B' if name in other else 'A'}"
    moved = exchanged_shards(one, other, names)
    return moved or f"{name}: {of_files(one[name], other[name])}".removeprefix(": ")


def exchanged_shards(one: dict[str, Path], other: dict[str, Path], names: list[str]) -> str:
    """What is said of shards of one table that stand under each other's names; "" of all else."""
    shards = [name for name in names if name.endswith(".parquet") and Path(name).parent == Path(names[0]).parent]
    if not all(name in one and name in other for name in shards):
        return ""
    for place in shards[1:]:
        if same_bytes(one[shards[0]], other[place]):
            return f"{shards[0]}: reordered: the shard is the same, and is {place} now"
    return ""


def of_files(left: Path, right: Path) -> str:
    """The first difference inside two files that differ, read as what their names say they are, else as bytes."""
    readers: dict[str, Callable[[Path, Path], str]] = {
        ".parquet": of_tables, ".safetensors": of_tensors, ".npy": of_arrays, ".jsonl": of_lines, ".json": of_lines,
    }  # fmt: skip
    try:
        found = readers.get(left.suffix, of_bytes)(left, right)
    except (pa.ArrowException, SafetensorError, ValueError, OSError):
        found = ""  # one of them is damaged
    return found or of_bytes(left, right)


def of_tables(left: Path, right: Path) -> str:
    """Row group, row and column; or that the rows are the same in another order."""
    one, other = pq.read_table(left, partitioning=None), pq.read_table(right, partitioning=None)
    if one.schema != other.schema:
        return "the columns differ: " + ", ".join(sorted({str(f) for f in one.schema} ^ {str(f) for f in other.schema}))
    found = first_row(one, other)
    if found is None and one.num_rows == other.num_rows:
        return "the values are the same, written otherwise"
    row, column = found or (min(one.num_rows, other.num_rows), "")
    place = f"row group {row_group(left, row)}, row {row}"
    if one.num_rows == other.num_rows and rows_of(one) == rows_of(other):
        return f"reordered: the same {one.num_rows} rows, the first out of place at {place}"
    if not column:
        return f"{one.num_rows} rows, {other.num_rows} in the other; the first too many is row {row}"
    return f"{place}, column {column}: {of_values(one[column][row].as_py(), other[column][row].as_py())}"


def first_row(one: pa.Table, other: pa.Table) -> tuple[int, str] | None:
    """(row, column) of the first value that differs, among the rows that both have."""
    rows = min(one.num_rows, other.num_rows)
    found = []
    for column in one.column_names:
        a, b = one[column].slice(0, rows), other[column].slice(0, rows)
        if not a.equals(b):
            pairs = enumerate(zip(a.to_pylist(), b.to_pylist(), strict=True))
            found += [(row, column) for row, (x, y) in pairs if repr(x) != repr(y)][:1]
    return min(found, key=lambda place: place[0], default=None)


def rows_of(table: pa.Table) -> Counter[str]:
    """Number of times that each row is in the table."""
    return Counter(map(repr, zip(*(column.to_pylist() for column in table.columns), strict=True)))


def row_group(path: Path, row: int) -> int:
    """The row group that holds a row."""
    metadata, end = pq.read_metadata(path), 0
    for group in range(metadata.num_row_groups):
        end += metadata.row_group(group).num_rows
        if row < end:
            return group
    return metadata.num_row_groups


def of_tensors(left: Path, right: Path) -> str:
    """The first tensor by name, and its first entry that differs."""
    one, other = load_file(left), load_file(right)
    names = [n for n in sorted({*one, *other}) if n not in one or n not in other or not same_tensor(one[n], other[n])]
    if not names:
        return ""
    name, count = names[0], f"{len(names)} of {len({*one, *other})} tensors differ"
    if (
        name not in one
        or name not in other
        or one[name].shape != other[name].shape
        or one[name].dtype != other[name].dtype
    ):
        return f"tensor {name}: another shape or type, or only in one; {count}"
    return f"tensor {name}: {of_entries(as_numpy(one[name]), as_numpy(other[name]))}; {count}"


def same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and as_numpy(one).tobytes() == as_numpy(other).tobytes()


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The values, or the bits where NumPy has not the type."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def of_arrays(left: Path, right: Path) -> str:
    """Where two .npy files differ first, in words."""
    one, other = np.load(left, mmap_mode="r"), np.load(right, mmap_mode="r")
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} of shape {one.shape}, {other.dtype} of shape {other.shape} in the other"
    return of_entries(one, other)


def of_entries(one: np.ndarray, other: np.ndarray) -> str:
    """The first entry whose bits differ; both have one shape and type."""
    bits = f"u{one.dtype.itemsize}"
    places = np.flatnonzero(one.view(bits).ravel() != other.view(bits).ravel())
    place = np.unravel_index(places[0], one.shape)
    flipped = int(one.view(bits)[place]) ^ int(other.view(bits)[place])
    entry = ", ".join(str(int(index)) for index in place)
    return f"entry [{entry}]: {one[place]} -> {other[place]}, {bits_of(flipped)}; {len(places)} of {one.size} entries differ"


def of_values(one: Any, other: Any) -> str:
    """How two values of a column differ, in words."""
    if isinstance(one, str | bytes) and isinstance(other, str | bytes):
        a, b = (value.encode() if isinstance(value, str) else value for value in (one, other))
        return of_strings(a, b)
    return f"{shorten_value(one)} -> {shorten_value(other)}"


def of_strings(one: bytes, other: bytes) -> str:
    """The first byte that differs, and how many bits do where both are as long."""
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if len(one) != len(other):
        return f"from byte {place} on; {len(one)} bytes, {len(other)} in the other"
    flipped = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return f"byte {place}: 0x{one[place]:02x} -> 0x{other[place]:02x}, {bits_of(flipped)}"


def bits_of(flipped: int) -> str:
    """Number of bits that differ, with its unit: `2 bits`."""
    return f"{flipped.bit_count()} bit{'s' if flipped.bit_count() > 1 else ''}"


def of_lines(left: Path, right: Path) -> str:
    """First line that two files differ in, in words."""
    with left.open("rb") as one, right.open("rb") as other:
        for number, (a, b) in enumerate(zip(one, other, strict=False), 1):
            if a != b:
                return f"line {number}, {of_strings(a, b)}"
    return ""


def of_bytes(left: Path, right: Path) -> str:
    """First byte that two files differ in, in words."""
    offset = 0
    with left.open("rb") as one, right.open("rb") as other:
        while (a := one.read(CHUNK)) == (b := other.read(CHUNK)) and a:
            offset += len(a)
    text = of_strings(a, b) if len(a) == len(b) else f"{left.stat().st_size} bytes, {right.stat().st_size} in the other"
    return re.sub(r"byte (\d+)", lambda m: f"byte {int(m[1]) + offset}", text, count=1)


def shorten_value(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
