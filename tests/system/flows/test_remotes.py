"""Data between two clones by each kind of DVC remote, and trouble with a remote in one line."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from flows.stage.transfer import pull, push, remember, tracked, uncached
from flows.staleness.lockfile import merge, part_of
from tasks.runner.lock import lock_entry
from tests.flows.small_graph import dvc, make_repo
from tests.flows.team import use_remote
from tests.ports import free_port
from tests.project import digest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of a local S3 server with a bucket `tokenmill`."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="tokenmill")
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def sshd() -> str | None:
    """Where the SSH server is, if one is installed."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")


def travels(tmp_path: Path, url: str) -> None:
    """What one project made is the same in another, by this remote."""
    here, there = make_repo(tmp_path / "here"), make_repo(tmp_path / "there")
    for project in (here, there):
        use_remote(project, url)
    dvc(here, "repro")
    assert tracked(here, ["data/a"]) == ["data/a"] and tracked(here, ["lib.txt"]) == [] and uncached(here, "a") == []
    push(here, ["data/a"])
    merge(there, "b", lock_entry(here, "b"))
    with pytest.raises(ValueError, match=r"^DVC remote store \(.*\): ") as caught:
        pull(there, ["data/b"])  # was not pushed
    assert "\n" not in str(caught.value)
    push(here, ["data/b"])
    for address in ("a", "b"):
        entry = lock_entry(here, address)
        merge(there, address, entry)
        pull(there, [out["path"] for out in entry["outs"]])
        remember(there, address)
        assert digest(there / "data" / address) == digest(here / "data" / address)
    shutil.rmtree(there / "data")
    (there / "dvc.lock").unlink()
    dvc(there, "repro", "b")
    assert part_of(there, ["a", "b"]) == part_of(here, ["a", "b"])


def test_a_local_folder(tmp_path: Path) -> None:
    travels(tmp_path, str(tmp_path / "remote"))


@pytest.mark.skipif(find_spec("dvc_s3") is None, reason="dvc-s3 is not installed (pip install 'dvc[s3]')")
def test_s3(tmp_path: Path, s3: str) -> None:
    travels(tmp_path, f"s3://tokenmill/store\n    endpointurl = {s3}")


@pytest.mark.skipif(find_spec("dvc_ssh") is None, reason="dvc-ssh is not installed (pip install 'dvc[ssh]')")
@pytest.mark.skipif(sshd() is None, reason="no sshd to connect to")
def test_ssh(tmp_path: Path) -> None:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    shutil.copyfile(tmp_path / "user.pub", tmp_path / "authorized")
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host'}\nAuthorizedKeysFile {tmp_path / 'authorized'}\n"
        "StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
    )
    server = subprocess.Popen([sshd() or "", "-D", "-f", str(tmp_path / "sshd_config")])
    try:
        url = f"ssh://127.0.0.1:{port}{tmp_path / 'remote'}\n    keyfile = {tmp_path / 'user'}\n    allow_agent = false"
        travels(tmp_path, url)
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_an_unreachable_remote_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "s3" and find_spec("dvc_s3") is None:
        pytest.skip("dvc-s3 is not installed (pip install 'dvc[s3]')")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    project = make_repo(tmp_path / "repo")
    (tmp_path / "file").write_text("no folder\n")
    with socket.socket() as closed:  # bound and not listened on: a connection is refused
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        use_remote(
            project, {"folder": str(tmp_path / "file" / "below"), "s3": f"s3://b/p\n    endpointurl = {endpoint}"}[kind]
        )
        dvc(project, "repro", "a")
        for work in (push, pull):
            shutil.rmtree(project / ".dvc" / "cache", ignore_errors=work is pull) if work is pull else None
            with pytest.raises(ValueError, match=r"^DVC remote store \(.*\): .+") as caught:
                work(project, ["data/a"])
            assert "\n" not in str(caught.value)


def test_no_remote_says_how_to_name_one(tmp_path: Path) -> None:
    project = make_repo(tmp_path / "repo")
    with pytest.raises(ValueError, match=r"has no DVC remote to exchange data by: `dvc remote add --default NAME URL`"):
        push(project, ["data/a"])


def test_importing_this_needs_no_remote() -> None:
    """A laptop without the libraries of any remote runs the pipeline."""
    program = "import sys, flows.stage.pools, flows.stage.process; sys.exit(any(n.startswith(('dvc_s3', 'dvc_ssh')) for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
