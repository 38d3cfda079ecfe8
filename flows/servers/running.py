"""The servers of a `make ui` that is running in this checkout, for runs that are started otherwise and shall be seen there."""

from pathlib import Path

import psutil

from flows.servers.prefect_and_mlflow import HOME, MLFLOW_URL, REPORT_URL

# What a run needs of the environment of the process that runs what the form starts: addresses, and the login.
WANTED = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "NO_PROXY", MLFLOW_URL, REPORT_URL)
SERVER, RUNNER = "flows.ui", "flows.ui.runner"


def running_server(home: Path = HOME) -> dict[str, str]:
    """The settings with which a run is recorded there; nothing where no `make ui` is running.

    They are read from the environment of a process of ours, as the kernel shows it to the same user alone: the password is in
    no file. Which process is the server is written in its lock.
    """
    try:
        server = psutil.Process(int((home / "ui.lock").read_text()))
        if SERVER not in server.cmdline():  # the number is another's by now
            return {}
        runners = [child for child in server.children(recursive=True) if RUNNER in child.cmdline()]
        variables = runners[0].environ() if runners else {}
    except (OSError, ValueError, psutil.Error):
        return {}
    return {name: variables[name] for name in WANTED if name in variables}
