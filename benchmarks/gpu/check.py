"""What an item has in hand: where it computes, whether small, and where it writes the rows of what it finds."""

import itertools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.predictions import PREDICTIONS, Prediction

ROWS = "rows.jsonl"
NEEDS_GPU = "needs a GPU"
OWN = {"item", "name", "value", "unit", "predicted", "because", "off"}  # of a row; the rest are an item's own figures


@dataclass(frozen=True)
class Check:
    """tiny: the smallest shapes that run every line, for a machine without a GPU; nothing is predicted of them."""

    device: torch.device
    tiny: bool
    out: Path
    item: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def of(self, item: str) -> "Check":
        """Copy of the check for an item."""
        return replace(self, item=item)

    def say(self, name: str, value: float | str | None, unit: str = "", **more: Any) -> None:
        """Append a row and print it, with its prediction; it is on disk when this returns. None: only a GPU could tell."""
        row: dict[str, Any] = {
            "item": self.item,
            "name": name,
            "value": NEEDS_GPU if value is None else value,
            "unit": unit,
        }
        prediction = None if self.tiny else PREDICTIONS.get((self.item, name))
        if prediction is not None:
            row |= {"predicted": [prediction.low, prediction.high], "because": prediction.because}
            row["off"] = off(value, prediction) if isinstance(value, float | int) else None
        with (self.out / ROWS).open("a") as file:
            file.write(json.dumps(row | more) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line(row | more), flush=True)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, of every item, oldest first."""
        path = self.out / ROWS
        return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def off(value: float, prediction: Prediction) -> float:
    """How far a value lies from what was predicted, relative to the nearer end: 0 within, -0.5 at half of the lower end."""
    nearer = min(max(value, prediction.low), prediction.high)
    return value / nearer - 1


def line(row: dict[str, Any], width: int = 200) -> str:
    """A row as text, cut to a width: the figure, what was predicted of it, and the item's other figures."""
    value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.4g}"
    text = f"  {row['name'][:70]:70} {value} {row['unit']}".rstrip()
    if "predicted" in row:
        low, high = row["predicted"]
        text += f"  [predicted {low:g} to {high:g}" + (f", {row['off']:+.0%}]" if row["off"] else "]")
    rest = {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items() if key not in OWN}
    return (text + (f"  {rest}" if rest else ""))[:width]


def table(rows: list[dict[str, Any]]) -> str:
    """Every row, under its item, and last those that miss their prediction by more than a fifth."""
    lines = []
    for item, group in itertools.groupby(rows, lambda row: row["item"]):
        lines += [item, *map(line, group)]
    missed = [row for row in rows if abs(row.get("off") or 0) > 0.2]
    lines += ["missed by more than 20%, each to be explained:", *map(line, missed)] if missed else []
    return "\n".join(lines)
