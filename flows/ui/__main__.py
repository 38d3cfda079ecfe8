"""`make ui`: the Prefect UI to start runs, the MLflow UI and the report to look at them, and the process that runs them."""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from flows.environment import ROOT
from flows.servers.answers import get, post
from flows.servers.password import USER, VARIABLE, PasswordError, pair, take_password
from flows.servers.prefect_and_mlflow import (
    AS_TRAINING,
    HOME,
    HOST,
    MLFLOW_URL,
    REPORT_URL,
    Child,
    ServerError,
    child,
    port_of,
    prefect_environment,
    private_home,
    servers,
)
from flows.settings import MLFLOW_PORT, PREFECT_PORT, REPORT_PORT
from flows.ui.report_server import report_page
from tasks.runner.own import open_lock
from tasks.runner.tracking import EXPERIMENT, experiment_request


def main() -> int:
    """The exit code: 0 after Ctrl-C or SIGTERM, 1 when something could not start or ended by itself."""
    argparse.ArgumentParser(prog="tokenmill ui", description=__doc__).parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        given, password = VARIABLE in os.environ, take_password()
        with single_instance_lock():
            serve(password, login(password, given))
    except (ServerError, PasswordError) as error:
        print(f"make ui: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


def login(password: str | None, given: bool) -> str:
    """The line that says how to log in; a password that its owner has given is not shown."""
    if password is None:
        return f"nobody is asked for a password ({VARIABLE} is empty): any account of this machine can act as you here"
    shown = f"{USER}:<the password of {VARIABLE}>" if given else pair(password)
    return f"{shown}    in one field for Prefect, user and password for the others, PREFECT_API_AUTH_STRING for agents"


def serve(password: str | None, how: str) -> None:
    """Start everything, say where it is and how to log in, and stay until interrupted. Raises ServerError when a part ends."""
    started = time.monotonic()
    prefect_port, mlflow_port, report_port = map(port_of, (PREFECT_PORT, MLFLOW_PORT, REPORT_PORT))
    print("starting the Prefect and MLflow servers; the first time takes longest", flush=True)
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    with (
        servers(prefect_port, mlflow_port, password) as both,
        report_page(ROOT / "data" / "report" / "index.html", report_port, password) as report,
        child("runner", [sys.executable, "-m", "flows.ui.runner"], {
            **prefect_environment(prefect_port, password),
            MLFLOW_URL: mlflow,
            REPORT_URL: report,
            # The default of 10 s between two looks for new runs would be most of the wait after a click on Submit.
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            # a run that cannot start has nobody else to say so
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
        }) as runner,
    ):  # fmt: skip
        deployment = await_deployment(prefect, runner, password)
        print(
            f"""
ready after {time.monotonic() - started:.0f} s
  Prefect    {prefect}    start and watch runs
  MLflow     {mlflow}    parameters, curves and models of every run
  its runs   {experiment_page(mlflow, password)}
  report     {report}    what the newest run came to
  start one  {prefect}/v2/deployments/deployment/{deployment}/run
  log in     {how}
Runs show below; logs of the servers: {HOME.relative_to(ROOT)}/*.log; Ctrl-C stops everything.
""",
            flush=True,
        )
        while True:
            for part in (*both, runner):
                part.check()
            time.sleep(0.5)


def experiment_page(mlflow: str, password: str | None) -> str:
    """The address of the list of runs; it leads to no chat application's overview, as MLflow's own front page does."""
    url = f"{mlflow}/api/2.0/mlflow/experiments"
    found = get(f"{url}/get-by-name?experiment_name={EXPERIMENT}", password)
    made = None if found else post(f"{url}/create", experiment_request(), password)
    number = (
        json.loads(found)["experiment"]["experiment_id"] if found else json.loads(made or "{}").get("experiment_id")
    )
    return f"{mlflow}/#/experiments/{number}/runs?{AS_TRAINING}" if number else f"{mlflow}/#/experiments?{AS_TRAINING}"


def await_deployment(prefect: str, runner: Child, password: str | None) -> str:
    """The id of the deployment, once this runner has asked for work; what an earlier one left does not count."""
    since, found = datetime.now(UTC), {}

    def polled() -> bool:
        found.update(json.loads(get(f"{prefect}/api/deployments/name/pipeline/tokenmill", password) or "{}"))
        return bool(found.get("last_polled")) and datetime.fromisoformat(found["last_polled"]) > since

    runner.wait_until(polled)
    return found["id"]


@contextmanager
def single_instance_lock() -> Iterator[None]:
    """Hold this checkout's lock, which the kernel frees at any death. Raises ServerError when another one has it."""
    private_home()
    with os.fdopen(open_lock(HOME / "ui.lock"), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"already running in this checkout as process {lock.read() or '?'}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # A second Ctrl-C must not cut the stopping short: every step of it has a deadline.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("\nstopping", flush=True)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
