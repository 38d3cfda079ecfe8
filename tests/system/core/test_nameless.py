"""DVC, Prefect and MLflow for a user that is in no table, as a container's may be."""

from pathlib import Path

import pytest

from tests.core.test_own import as_nameless


@pytest.mark.parametrize("home", [False, True])
def test_dvc_prefect_and_mlflow_work_for_a_user_without_a_name(tmp_path: Path, home: bool) -> None:
    code = """
import os
from pathlib import Path
from flows.environment import environment
os.environ.update(environment(Path.cwd()))
from dvc.repo import Repo
Repo.init(no_scm=True).close()
print(Repo().root_dir)
import prefect.settings
print(prefect.settings.get_current_settings().home)
from tasks.runner.tracking import finish_parent, start_parent
run = start_parent({}, {})
print(bool(run))
finish_parent(run, "FINISHED")
"""
    given = {"HOME": str(tmp_path / "home")} if home else {}
    (tmp_path / "home").mkdir()
    given |= {"TOKENMILL_TRACKING": "on"}
    assert as_nameless(tmp_path, code, **given).splitlines()[-3:] == [
        str(tmp_path),
        str(tmp_path / ".scratch/prefect"),
        "True",
    ]
