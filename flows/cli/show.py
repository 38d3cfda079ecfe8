"""`tokenmill show`: the figures of the models and stages that are up to date, as the end of a run prints them."""

import argparse
import sys
from pathlib import Path

from tasks.report.terminal import figures, table
from tasks.runner.answer import print_json, take_json


def main() -> int:
    """Exit code: 0, or 2 for a stage that there is not."""
    parser = argparse.ArgumentParser(prog="tokenmill show", description=__doc__)
    parser.add_argument("stages", nargs="*", help="such as pretrain or evaluate@rl; all when absent")
    take_json(parser)
    asked, root = parser.parse_args(), Path.cwd()
    found = figures(root)
    unknown = [name for name in asked.stages if name not in found["stages"]]
    if unknown:
        print(f"show: no stage {unknown[0]!r} (stages: {', '.join(found['stages'])})", file=sys.stderr)
        return 2
    if asked.json:
        print_json(figures(root, asked.stages or None))
    else:
        print(table(root, asked.stages or None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
