"""`make pipeline`: composes and checks the parameters, and runs what is stale; with nothing stale it starts nothing."""

import argparse
import gc
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from flows.environment import environment
from flows.params.assignments import take_words
from flows.params.compose import check
from flows.pipeline.prepare import Asked, hand_over, prepare
from flows.pipeline.run_lock import one_run
from flows.preflight.start import preflight
from flows.servers.answers import server_answers
from flows.servers.prefect_and_mlflow import ServerError
from flows.servers.running import running_server
from flows.servers.temporary import Temporary, temporary_server
from flows.stage.process import INTERRUPTED
from tasks.core.config import ConfigError
from tasks.core.process import no_collection
from tasks.report.terminal import figures
from tasks.runner.answer import print_json, take_json, words_aside


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tokenmill pipeline", description=__doc__)
    take_words(parser)
    parser.add_argument("--force", action="store_true", help="run the stages even when nothing has changed")
    take_json(parser)
    return parser.parse_args()


def choose_server() -> None:
    """Leave PREFECT_API_URL when its server answers; else take that of the `make ui` that runs in this checkout, if one does;
    else none, and this process begins one of its own."""
    url = os.environ.get("PREFECT_API_URL")
    if url and not server_answers(url):
        print(f"warning: no Prefect server answers at PREFECT_API_URL={url}; using another", file=sys.stderr)
        del os.environ["PREFECT_API_URL"]
    if "PREFECT_API_URL" not in os.environ:
        found = running_server()
        if found and server_answers(found["PREFECT_API_URL"]):
            os.environ.update(found)
            print(
                f"shown at {found['PREFECT_API_URL'].removesuffix('/api')}, by the `make ui` that runs here", flush=True
            )


def main() -> int:
    """Exit code: 0 done, 1 a stage failed, 2 a mistake in what was asked for, 130 stopped."""
    asked, root = arguments(), Path.cwd()
    os.environ.update(environment(root))
    os.environ["TOKENMILL_ROOT"] = str(root)
    ran: list[str] = []
    with words_aside(asked.json), one_run(root):
        code = run(root, asked, ran)
    if asked.json and code != 2:
        print_json({"code": code, **({"ran": ran} if code == 0 else {}), **figures(root)})
    gc.freeze()  # else Python walks all of Prefect and mlflow before it ends, which takes it 1.6 s
    return code


def load_flow(temporary: Temporary | None) -> None:
    """Import Prefect and the flow, which takes 0.9 s of a core and nothing before needs; Prefect takes its server from the
    environment as it is then."""
    if temporary:
        os.environ.update(temporary.settings)
    with no_collection():
        importlib.import_module("flows.pipeline.flow")


def run(root: Path, asked: argparse.Namespace, ran: list[str]) -> int:
    """Exit code, as of main. ran: gets the stages that ran where all went well."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    try:
        prepared = prepare(root, Asked(asked.preset, asked.set, asked.targets, asked.force), check, say)
        plan, todo = prepared.plan, prepared.todo
        if not todo:
            print(
                f"nothing to do: all {len(plan)} stages are up to date (report: {root / 'data' / 'report' / 'index.html'})"
            )
            return 0
        choose_server()
        # It takes 4 s of a core, while preflight is at work.
        temporary = None if "PREFECT_API_URL" in os.environ else temporary_server()
        preflight(
            root,
            prepared.params,
            todo,
            lambda line: say(f"{'preflight':>18} | {line}"),
            lambda: load_flow(temporary),
        )
    except (ConfigError, ServerError) as error:
        print(error, file=sys.stderr)
        return 2
    for stage in todo:
        print(f"{stage.address:>18} | {stage.reason or 'follows what comes before it'}", flush=True)
    if temporary:
        try:
            os.environ.update(temporary.wait())
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
    load_flow(temporary)
    from prefect.exceptions import CancelledRun

    from flows.pipeline.flow import pipeline

    hand_over(replace(prepared, said=said))
    try:
        done = pipeline(preset=asked.preset, targets=asked.targets, force=asked.force, overrides=asked.set)
        assert isinstance(done, list)  # a state that is not Completed is raised
        ran += done
    except (RuntimeError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    except (CancelledRun, KeyboardInterrupt) as error:
        print(str(error) or "stopped; run again to go on", file=sys.stderr)
        return INTERRUPTED
    print(f"ran: {', '.join(map(str, ran)) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
