"""For tests of whole runs: servers have as long as they take, and one Prefect server is there for all tests of a process
that need no other."""

from collections.abc import Iterator

import pytest

from flows.servers import prefect_and_mlflow
from tests.flows.team import prefect_server
from tests.processes import PATIENCE


@pytest.fixture(scope="session", autouse=True)
def _as_long_as_it_takes() -> Iterator[None]:
    """Servers that tests start have as long as a busy machine needs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prefect_and_mlflow, "STARTUP_SECONDS", PATIENCE)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, _as_long_as_it_takes: None) -> Iterator[dict[str, str]]:
    """A Prefect server: what the environment of a run on it names."""
    with prefect_server(tmp_path_factory.mktemp("server")) as url:
        yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}
