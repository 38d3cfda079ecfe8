"""`python -m benchmarks.gpu`: at most nine minutes of a GPU, spent on what is worth most first; docs/gpu.md says on what.

Rows are appended to <out>/rows.jsonl the moment they are known. It needs torch, pyarrow, pytest and what docs/gpu.md lists
beside them, and neither DVC, Prefect nor MLflow.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Exit code: 0 done, 1 an item failed or was stopped, 2 there is no GPU or no such item."""
    # else asking for a GPU leaves this process unfit for forks
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from benchmarks.gpu.check import Check, table
    from benchmarks.gpu.items import ITEMS
    from benchmarks.gpu.runner import run

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--budget", type=float, default=520, help="seconds in all (default: %(default)s)")
    parser.add_argument(
        "--only", default="", help=f"some items, with commas between: {', '.join(i.name for i in ITEMS)}"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="the smallest shapes, anywhere: whether the check itself works"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=os.environ.get("OUT", ".scratch/gpu-check"),
        help="folder of the rows (default: %(default)s)",
    )
    asked = parser.parse_args()
    names = [name for name in asked.only.split(",") if name]
    if unknown := set(names) - {item.name for item in ITEMS}:
        print(
            f"--only: no item {', '.join(sorted(unknown))} (there are: {', '.join(i.name for i in ITEMS)})",
            file=sys.stderr,
        )
        return 2
    if not asked.tiny and not torch.cuda.is_available():
        print("no GPU is here; --tiny tries every item on a CPU, which measures nothing", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    check = Check(torch.device("cuda" if torch.cuda.is_available() else "cpu"), asked.tiny, asked.out.resolve())
    before = len(check.rows())
    run([item for item in ITEMS if not names or item.name in names], check, asked.budget)
    rows = check.rows()[before:]
    print("\n== all rows\n" + table(rows))
    return int(any(row["name"] in ("error", "failed", "stopped") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
