"""The gradient norms of a run, as `refined` takes them: `python -m lm.schedules.norms data/pretrain/curves.jsonl`."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Numbers that stand for a run: a median over a tenth of it takes no notice of finer parts
PARTS = 100


def norms_of(curves: Path, parts: int = PARTS) -> list[float]:
    """Medians of the gradient norms in so many equal parts of a run, or all, if it has fewer steps, to four digits. Raises
    OSError, and ValueError, in one line, for a file that is no curves or has none."""
    norms = []
    try:
        lines = curves.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{curves}: no text: give the curves.jsonl of a training stage") from None
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise ValueError(
                f"{curves}: line {number} is no figures of a step: give the curves.jsonl of a training stage"
            )
        if "gradient_norm" in line:
            norm = line["gradient_norm"]
            if not isinstance(norm, int | float) or not math.isfinite(norm):
                raise ValueError(f"{curves}: line {number}: gradient_norm: {norm} is no finite number")
            norms.append(norm)
    if not norms:
        raise ValueError(f"{curves}: no line has a gradient_norm: give the curves.jsonl of a training stage")
    return [float(f"{np.median(some):.4g}") for some in np.array_split(norms, min(parts, len(norms)))]


def main(given: Sequence[str] | None = None) -> int:
    """Exit code: 0 printed, 2 a file without norms."""
    parser = argparse.ArgumentParser(prog="python -m lm.schedules.norms", description=__doc__)
    parser.add_argument("curves", metavar="CURVES", type=Path, help="as in data/pretrain/curves.jsonl")
    curves = parser.parse_args(given).curves
    try:
        print(f"norms: {norms_of(curves)}")
    except OSError as error:
        print(f"{curves}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
