"""The gradient norms of a run, as `refined` takes them: `python -m lm.schedules.norms data/pretrain/curves.jsonl`."""

import json
import sys
from pathlib import Path

import numpy as np

# Numbers that stand for a run: a median over a tenth of it takes no notice of finer parts
PARTS = 100


def norms_of(curves: Path, parts: int = PARTS) -> list[float]:
    """Medians of the gradient norms in so many equal parts of a run, or all, if it has fewer steps, to four digits."""
    lines = (json.loads(line) for line in curves.read_text().splitlines())
    norms = [line["gradient_norm"] for line in lines if "gradient_norm" in line]
    if not norms:
        raise ValueError(f"{curves}: no line has a gradient_norm: give the curves.jsonl of a training stage")
    return [float(f"{np.median(some):.4g}") for some in np.array_split(norms, min(parts, len(norms)))]


if __name__ == "__main__":
    print(f"norms: {norms_of(Path(sys.argv[1]))}")
