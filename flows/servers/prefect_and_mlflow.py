"""The two servers of `make ui` as child processes of this one, reachable from this machine only."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.environment import ROOT, environment
from flows.servers.answers import get, names_of
from flows.servers.password import USER, pair
from flows.servers.prefect_pages import adapt_page
from lm.config import ConfigError
from lm.settings import Setting

HOME = ROOT / ".scratch" / "prefect-server"
STORE = ROOT / "mlflow" / "store"
HOST = "127.0.0.1"
# Tell a run where things are served, for the links of its artifacts.
MLFLOW_URL, REPORT_URL = "TOKENMILL_MLFLOW_URL", "TOKENMILL_REPORT_URL"
# Of an address of MLflow's pages: else it shows an experiment as that of a chat application, which has no list of runs.
AS_TRAINING = "workflowType=machine_learning"

# The first start creates the databases: 15 s on two free cores, over a minute on a busy small machine.
STARTUP_SECONDS = 180
# Prefect gives a run 30 s to end by itself when its runner is stopped; the runner needs a little more.
STOP_SECONDS = 45


class ServerError(RuntimeError):
    """A part of `make ui` that could not start or ended by itself; the message says what to do."""


@dataclass(frozen=True)
class Child:
    """A process of ours; `log` is where its output goes, None: to our own output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once `ready()`. Raises ServerError, with the end of the log, if the process ends or takes too long."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"the {self.name} does not answer after {STARTUP_SECONDS} s{self._tail()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raises ServerError when the process has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"the {self.name} ended with exit code {self.process.returncode}{self._tail()}")

    def stop(self) -> None:
        """Ask the process to end; after STOP_SECONDS, kill it and the group it leads."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _tail(self) -> str:
        if self.log is None:
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        shown = self.log.relative_to(ROOT) if self.log.is_relative_to(ROOT) else self.log
        return "\n".join([f"; the end of {shown}:", *lines])


@contextmanager
def child(name: str, command: list[str], variables: dict[str, str], log: Path | None = None) -> Iterator[Child]:
    """A process that ends when the block does, or when this process dies.

    It has a session of its own: Ctrl-C in the terminal reaches only us, and we stop things in the right order.
    """
    setpriv = shutil.which("setpriv")
    tied = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    with open(log or os.devnull, "wb") as sink:
        output = sink if log else None
        started = Child(
            name,
            subprocess.Popen(
                [*tied, *command],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ),
            log,
        )
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def servers(prefect_port: int, mlflow_port: int, password: str | None = None) -> Iterator[list[Child]]:
    """A Prefect server and an MLflow server over the project's store, both answering, until the block ends. With a password
    both ask for it."""
    private_home()
    STORE.mkdir(parents=True, exist_ok=True)
    # -P: the project has a folder named mlflow, which must not be mistaken for the library.
    python = [sys.executable, "-P", "-m"]
    prefect = [*python, "prefect", "server", "start", f"--host={HOST}", f"--port={prefect_port}"]
    names = names_of(mlflow_port)
    mlflow = [*python, "mlflow", "server", f"--host={HOST}", f"--port={mlflow_port}", "--workers=1"]
    mlflow += [f"--backend-store-uri=sqlite:///{STORE / 'mlflow.db'}"]
    mlflow += [f"--default-artifact-root={(STORE / 'artifacts').as_uri()}", "--no-serve-artifacts"]
    mlflow += [f"--allowed-hosts={','.join(names)}", f"--cors-allowed-origins={','.join(f'http://{n}' for n in names)}"]
    if password:
        mlflow += ["--app-name=basic-auth"]
    with (
        child("Prefect server", prefect, server_environment(prefect_port, password), HOME / "prefect.log") as first,
        child("MLflow server", mlflow, mlflow_environment(password), HOME / "mlflow.log") as second,
    ):
        first.wait_until(lambda: get(f"http://{HOST}:{prefect_port}/api/health") is not None)
        for page in sorted((HOME / "pages").glob("v*/index.html")):
            page.write_text(adapt_page(page.read_text(), HOST))
        second.wait_until(lambda: get(f"http://{HOST}:{mlflow_port}/health") is not None)
        yield [first, second]


def private_home() -> None:
    """Make the folder of databases, logs and lock, and have it read by nobody else."""
    HOME.mkdir(parents=True, exist_ok=True)
    HOME.chmod(0o700)


def prefect_environment(port: int, password: str | None = None) -> dict[str, str]:
    """The environment of whoever talks to the Prefect server on this port.

    The home is one of this project, so a profile of the user is neither read nor changed.
    """
    return {
        **environment(ROOT),
        "PREFECT_HOME": str(HOME),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        **({"PREFECT_API_AUTH_STRING": pair(password)} if password else {}),
    }


def server_environment(port: int, password: str | None) -> dict[str, str]:
    """The environment of the Prefect server itself: the API address too, because its pages would otherwise call the one that
    the user's environment may name.

    A page of another site can post to a server of this machine without asking first, and Prefect takes a body without a type
    for JSON, so requests that change something need the token that only its own pages can read, password or not.
    """
    return {
        **prefect_environment(port, password),
        "PREFECT_UI_STATIC_DIRECTORY": str(HOME / "pages"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in names_of(port)),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        **({"PREFECT_SERVER_API_AUTH_STRING": pair(password)} if password else {}),
    }


def mlflow_environment(password: str | None = None) -> dict[str, str]:
    """The environment of the MLflow server: without the processes of a job queue, which we do not use."""
    login = mlflow_login(password) if password else {}
    return {**environment(ROOT), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **login}


def mlflow_login(password: str) -> dict[str, str]:
    """What makes MLflow ask for this password; writes its settings, which do not hold it.

    MLflow keeps a hash of the first password that it is given and then takes no other, so its table of users, which has one
    alone, is made anew at every start.
    """
    users, settings = HOME / "mlflow-users.db", HOME / "mlflow-auth.ini"
    users.unlink(missing_ok=True)
    authorization = "mlflow.server.auth:authenticate_request_basic_auth"
    lines = [f"database_uri = sqlite:///{users}", "default_permission = NO_PERMISSIONS", f"admin_username = {USER}"]
    settings.write_text("\n".join(["[mlflow]", *lines, f"authorization_function = {authorization}", ""]))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def port_of(setting: Setting[int]) -> int:
    """The port that a setting asks for; 0 asks for any free one. Raises ServerError when it is no port or is taken."""
    try:
        return _bindable(setting.read())
    except ConfigError as error:
        raise ServerError(str(error)) from None
    except OSError as error:
        raise ServerError(
            f"port {setting.read()} on {HOST}: {error.strerror}; stop what uses it or choose another with "
            f"{setting.name} (0: any free port), such as {setting.name}=0 make ui"
        ) from None


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return _bindable(0)


def _bindable(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return probe.getsockname()[1]
