"""The Prefect server that a run begins for itself lives exactly as long as the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.servers.prefect_and_mlflow import ServerError
from flows.servers.temporary import temporary_server
from tests.flows.small_graph import RUN, make_repo, surroundings
from tests.processes import command_of, wait_for

WITH_ITS_SERVER = """
import os
from flows.servers.temporary import temporary_server
os.environ.update(temporary_server().wait())
from prefect.exceptions import CancelledRun
""" + RUN.replace("ValueError)", "ValueError, CancelledRun)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_to_the_whole_group_ends_run_and_server(tmp_path: Path, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal, `timeout` and batch systems send it: the run says that it was cancelled, to a server that still
    answers, and both are gone at its end."""
    folder = make_repo(tmp_path / "repo")
    graph = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(graph.replace("cp data/a/x data/c/x", "touch begun && tail -f /dev/null"))
    given = surroundings(folder) | {"PREFECT_HOME": str(tmp_path / "prefect")}
    given.pop("PREFECT_API_URL", None)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_ITS_SERVER, "c"],
            cwd=folder,
            env=given,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_for((folder / "begun").exists, process, explain=(tmp_path / "log").read_text)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("uvicorn" in command_of(child) for child in family), "no temporary server was found"
    os.killpg(process.pid, number)
    process.wait()
    printed = (tmp_path / "log").read_text()
    if number != signal.SIGKILL:
        assert process.returncode == 1 and "failed stopped in c; run again to go on" in printed, printed
    assert "Traceback" not in printed and "rror" not in printed, printed
    for child in family:  # without a limit of its own: pytest's ends a run that leaves something
        wait_for(lambda child=child: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_cannot_start_is_one_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{tmp_path}/nowhere/prefect.db")
    temporary_server.cache_clear()
    try:
        with pytest.raises(
            ServerError, match=r"(?s)temporary Prefect server ended with exit code .*temporary-server\.log"
        ):
            temporary_server().wait()
    finally:
        temporary_server.cache_clear()
