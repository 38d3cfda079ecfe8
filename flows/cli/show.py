"""`tokenmill show`: the figures of the models and stages that are up to date, as the end of a run prints them; with --stage
what a stage learns from."""

import argparse
import sys
from pathlib import Path

from tasks.about.examples import render_example
from tasks.about.sections import Sections
from tasks.core.config import read_params
from tasks.report.terminal import stage_results, table
from tasks.runner.answer import add_json_option, one_or_more, print_json
from tasks.runner.rooms import part_of, room_of


def main() -> int:
    """Exit code: 0, or 2 for a stage that there is not, or that has no examples."""
    parser = argparse.ArgumentParser(prog="tokenmill show", description=__doc__)
    parser.add_argument("stages", nargs="*", help="such as pretrain or evaluate@rl; all when absent")
    parser.add_argument("--stage", help="print examples of what this stage learns from, coloured by what counts: sft")
    parser.add_argument("--count", type=one_or_more, default=3, help="how many examples (3)")
    add_json_option(parser)
    asked, root = parser.parse_args(), Path.cwd()
    if asked.stage:
        return print_examples(asked.stage, asked.count, asked.json)
    found = stage_results(root)
    unknown = [name for name in asked.stages if name not in found["stages"]]
    if unknown:
        print(f"show: no stage {unknown[0]!r} (stages: {', '.join(found['stages'])})", file=sys.stderr)
        return 2
    if asked.json:
        print_json(stage_results(root, asked.stages or None))
    else:
        print(table(root, asked.stages or None))
    return 0


def print_examples(stage: str, count: int, as_json: bool) -> int:
    """Print what the stage's room gives. Exit code: 2 where that is nothing, or something for it is missing."""
    room = part_of(stage, "examples") if stage.isidentifier() and room_of(stage) else None
    if room is None:
        print(f"show: {stage}: no stage that learns from conversations", file=sys.stderr)
        return 2
    try:
        found = list(room.examples(Sections(read_params()), Path("data"), count))
    except ValueError as error:
        print(f"show: {error}", file=sys.stderr)
        return 2
    if as_json:
        print_json({"examples": [[piece._asdict() for piece in pieces] for pieces in found]})
    else:
        for number, pieces in enumerate(found, 1):
            print(f"--- {number}\n{render_example(pieces, sys.stdout.isatty())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
