"""A Prefect server for this process and its children alone, where no other is named or answers."""

import atexit
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flows.servers.answers import get
from flows.servers.password import for_temporary_server
from flows.servers.prefect_and_mlflow import HOST, Child, child, port_of
from flows.settings import TEMPORARY_PREFECT_PORT

# As Prefect starts its own: the API alone, without pages and without the services that serve schedules and agents.
BARE = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


@dataclass(frozen=True)
class Temporary:
    """A server that is starting or answers, and what its clients' environment needs."""

    server: Child
    settings: dict[str, str]

    def wait(self) -> dict[str, str]:
        """The clients' settings, once the server answers. Raises ServerError when it ends or takes too long."""
        self.server.wait_until(lambda: get(f"{self.settings['PREFECT_API_URL']}/health") is not None)
        return self.settings


@cache
def temporary_server() -> Temporary:
    """The one of this process, begun by the first call and ended with the process.

    Differs from the server that Prefect starts by itself: it has a session of its own. `timeout`, a batch system or Ctrl-C end
    a whole process group; a server among them is gone before the run has said that it was cancelled, and Prefect's client tries
    its last words again for minutes.
    """
    url = f"http://{HOST}:{(port := port_of(TEMPORARY_PREFECT_PORT))}/api"
    command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    login = for_temporary_server()
    variables = {**os.environ, **BARE, "PREFECT_API_URL": url, **login}
    stack = ExitStack()
    server = stack.enter_context(child("temporary Prefect server", command, variables, home / "temporary-server.log"))
    atexit.register(stack.close)
    return Temporary(server, {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": login["PREFECT_API_AUTH_STRING"]})
