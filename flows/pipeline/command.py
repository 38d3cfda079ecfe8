"""`make pipeline`: composes and checks the parameters, and runs what is stale; with nothing stale it starts nothing."""

import argparse
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

from flows.environment import environment
from flows.params.assignments import take_words
from flows.params.compose import check
from flows.pipeline.prepare import Asked, prepare
from flows.pipeline.run_lock import one_run
from tasks.core.config import ConfigError
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tokenmill pipeline", description=__doc__)
    take_words(parser)
    parser.add_argument("--force", action="store_true", help="run the stages even when nothing has changed")
    add_json_option(parser)
    return parser.parse_args()


def main() -> int:
    """Exit code: 0 done, 1 a stage failed, 2 a mistake in what was asked for, 130 stopped."""
    asked, root = arguments(), Path.cwd()
    os.environ.update(environment(root))
    os.environ["TOKENMILL_ROOT"] = str(root)
    ran: list[str] = []
    with stdout_to_stderr(asked.json), one_run(root):
        code = run(root, asked, ran)
    if asked.json and code != 2:
        from tasks.report.terminal import stage_results  # 0.01 s of imports that nothing else needs

        print_json({"code": code, **({"ran": ran} if code == 0 else {}), **stage_results(root)})
    gc.freeze()  # else Python walks all of Prefect and mlflow before it ends, which takes it 1.6 s
    return code


def run(root: Path, asked: argparse.Namespace, ran: list[str]) -> int:
    """Exit code, as of main. ran: gets the stages that ran where all went well."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    try:
        prepared = prepare(root, Asked(asked.preset, asked.set, asked.targets, asked.force), check, say)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if not prepared.todo:
        page = root / "data" / "report" / "index.html"
        print(f"nothing to do: all {len(prepared.plan)} stages are up to date (report: {page})")
        return 0
    from flows.pipeline.begin import begin  # 0.05 s of imports that nothing else needs

    return begin(root, asked, replace(prepared, said=said), say, ran)
