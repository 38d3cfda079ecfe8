"""What our start of DVC adds to it: a full disk ends it, with a line that says so; it rewrites dvc.lock as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import _yaml, dumps_yaml, modify_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.stage.dvc_cli import read_the_lock_by_libyaml
from flows.stage.dvc_forks import DVC_CLI
from tests.project import ROOT
from tests.small_disk import small_disk

# A database that is opened anew, as DVC's are: what finds no room is the index that SQLite keeps while it is open.
WRITE = """
import sys
from pathlib import Path
from dvc_data.hashfile.cache import Cache
from flows.stage.dvc_cli import end_on_a_full_disk

folder = Path(sys.argv[1])
cache = Cache(folder / "links")
cache["before"] = 1
cache.close()
with (folder / "fill").open("wb", buffering=0) as fill:
    try:
        while True:
            fill.write(bytes(4096))
    except OSError:
        pass
end_on_a_full_disk()
cache["after"] = 2
"""


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    """It would try again for ever."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        command = [sys.executable, "-c", WRITE, str(disk)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode and last.startswith("OSError: [Errno 28] No space left on device") and "links" in last


# Without control characters and ends of lines, of which DVC's writer makes what no reader gives back.
LETTERS = st.characters(exclude_categories=["C", "Zl", "Zp"])
WORDS = st.text(LETTERS, min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(LETTERS, max_size=120),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(WORDS, values, max_size=4),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(WORDS, VALUES, max_size=4))
def test_what_is_not_of_the_stage_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, object]
) -> None:
    """DVC's own reader gives back some of these numbers with another last digit."""
    path = tmp_path / "dvc.lock"
    path.write_text(before := dumps_yaml({"schema": "2.0", "stages": {"a": {"params": params}}}), encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(_yaml, "parse_yaml_for_update", _yaml.parse_yaml_for_update)
        read_the_lock_by_libyaml()
        with modify_yaml(str(path)) as lock:
            lock["stages"]["b"] = {"cmd": "true"}
    assert path.read_text(encoding="utf-8").startswith(before)


def test_comments_of_dvc_yaml_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dvc.yaml"
    path.write_text("stages:  # all of them\n  a:\n    cmd: 'true'\n")
    monkeypatch.setattr(_yaml, "parse_yaml_for_update", _yaml.parse_yaml_for_update)
    read_the_lock_by_libyaml()
    with modify_yaml(str(path)) as whole:
        whole["stages"]["b"] = {"cmd": "false"}
    assert "# all of them" in path.read_text()


def test_it_finds_its_own_code_wherever_it_is_started(tmp_path: Path) -> None:
    """A run starts it by its path, with nothing said of where modules are."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", str(DVC_CLI), "--version"], cwd=tmp_path, env=surroundings, check=False
    )
    assert done.returncode == 0
