"""`make study ROOM=pretrain.optimizer METHODS="adamw muon"`: what a method buys on this corpus and this machine, beside a
baseline that was tuned as hard."""

import argparse
import shlex
import sys
from json import dumps
from pathlib import Path

from flows.arena.asked import study_of
from flows.arena.fitted import LAWS, in_words
from flows.arena.hold import hold
from flows.arena.pages.terminal import table
from flows.arena.runs import Failed
from flows.params.assignments import Split, assignments
from tasks.core.config import ConfigError
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="tokenmill study", description=__doc__)
    parser.add_argument("--study", help="a file, as in studies/optimizers.yaml")
    parser.add_argument("--room", help="the parameter whose methods are raced, as in pretrain.optimizer")
    parser.add_argument(
        "--methods", nargs="+", action=Split, split=str.split, default=[], help="of the room; the first is the baseline"
    )
    parser.add_argument("--preset", help="sizes; arena is small")
    parser.add_argument(
        "--set", nargs="*", action=Split, split=assignments, default=[], help='of every arm: "ingest.folder=data/mine"'
    )
    parser.add_argument(
        "--measure", help="a metric of a stage, as in evaluate@sft.accuracy; else what the room's stage says"
    )
    parser.add_argument("--better", choices=["lower", "higher"], help="of the measure, where it is not known")
    parser.add_argument("--control", help="a method that a winner has to beat, too; an arm where it is none yet")
    parser.add_argument("--budget", help="as in tokens=300000, flop=1e12, seconds=20, bytes=2000000")
    parser.add_argument("--target", type=float, help="bits per byte of the smoothed training curve")
    parser.add_argument("--seeds", type=int, help="paired runs of each arm at its best")
    parser.add_argument("--trials", type=int, help="of each arm, to tune it")
    parser.add_argument("--at-once", type=int, default=0, help="runs that go on side by side; 0: one a core")
    parser.add_argument("--fit", choices=sorted(LAWS), help="a law over the runs, as in docs/laws.md")
    add_json_option(parser)
    return parser.parse_args()


def command() -> str:
    """What runs this study again."""
    return shlex.join(["tokenmill", "study", *sys.argv[1:]])


def main() -> int:
    """Exit code: 0 done, 1 a run failed, 2 a mistake in what was asked for, 130 stopped."""
    asked, root = arguments(), Path.cwd()
    try:
        with stdout_to_stderr(asked.json):
            name, study = study_of(root, asked)
            result, page = hold(root, name, study, asked.at_once, command(), fit=asked.fit)
    except (ConfigError, Failed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if asked.json:
        print_json(result)
    else:
        print(table(dumps(result)))
        for line in in_words(result.get("fit", {})):
            print(line)
        print(f"page: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
