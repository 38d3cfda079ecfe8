"""A run of `make pipeline` that has stages to do: the server that shows it, preflight, and the flow."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from flows.pipeline.prepare import Prepared, hand_over
from flows.preflight.start import preflight
from flows.servers.answers import server_answers
from flows.servers.prefect_and_mlflow import ServerError
from flows.servers.running import running_server
from flows.servers.temporary import Temporary, temporary_server
from flows.stage.dvc_forks import dvc_fork_servers
from flows.stage.process import INTERRUPTED
from tasks.core.config import ConfigError
from tasks.core.process import no_collection


def begin(root: Path, asked: argparse.Namespace, prepared: Prepared, say: Callable[[str], None], ran: list[str]) -> int:
    """Run the stages that are to do; the exit code: 0 done, 1 a stage failed, 2 a mistake that preflight found, 130 stopped.

    say: prints a line and adds it to what was `said` before the flow. ran: gets the stages that ran where all went well.
    """
    with dvc_fork_servers(root, [stage.address for stage in prepared.todo], prepared.params):
        return run_stages(root, asked, prepared, say, ran)


def run_stages(
    root: Path, asked: argparse.Namespace, prepared: Prepared, say: Callable[[str], None], ran: list[str]
) -> int:
    """Exit code of a run whose stages have a DVC on its way: preflight, a server that shows it, and the flow."""
    todo = prepared.todo
    try:
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
    load_flow(temporary)  # while the server begins
    if temporary:
        try:
            os.environ.update(temporary.wait())
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
    from prefect.exceptions import CancelledRun

    from flows.pipeline.flow import pipeline

    hand_over(prepared)
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


def load_flow(temporary: Temporary | None) -> None:
    """Import Prefect and the flow, which takes 0.9 s of a core and nothing before needs; Prefect takes its server from the
    environment as it is then."""
    if temporary:
        os.environ.update(temporary.settings)
    with no_collection():
        importlib.import_module("flows.pipeline.flow")
