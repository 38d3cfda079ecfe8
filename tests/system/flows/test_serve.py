"""`make serve` as a process: what it says, whom it answers, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from lm.checkpoint import save_model
from tests.flows.serve.api import CONTEXT, KEY, client, decided
from tests.lm.models import toy_tokenizer
from tests.ports import free_port
from tests.processes import PATIENCE
from tests.project import ROOT


def command(*words: str, **variables: str) -> subprocess.Popen[str]:
    """The command, whose environment has no password but the one given here."""
    surroundings = {name: value for name, value in os.environ.items() if name != "TOKENMILL_PASSWORD"}
    return subprocess.Popen(
        [sys.executable, "-m", "tokenmill", "serve", *words],
        cwd=ROOT,
        env={**surroundings, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer, folder = toy_tokenizer(), tmp_path / "small"
    folder.mkdir()
    save_model(folder, decided(tokenizer), tokenizer)
    return folder


def said(server: subprocess.Popen[str]) -> str:
    """What it says once it can be called."""
    assert server.stdout
    lines = []
    for line in server.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    raise AssertionError(f"{''.join(lines)}{server.communicate()[1]}")


@pytest.mark.parametrize(
    ("password", "shown"),
    [(None, r"[\w-]{24}"), (KEY, "the one of TOKENMILL_PASSWORD"), ("", "nobody is asked for a key .*")],
)
def test_it_says_where_it_is_and_answers_who_has_the_key(folder: Path, password: str | None, shown: str) -> None:
    server = command(str(folder), "--port", "0", **({} if password is None else {"TOKENMILL_PASSWORD": password}))
    try:
        banner = said(server)
        [url], [key] = re.findall(r"base URL +(\S+)", banner), re.findall(r"key +(.*)", banner)
        assert re.fullmatch(shown, key) and (not password or password not in banner)
        own = client(url, key if password is None else password or "any")
        [card] = own.models.list().data
        assert card.id == "small" and card.max_model_len == CONTEXT  # type: ignore[attr-defined]
        asked = {"model": "small", "prompt": "1 + 1", "temperature": 0, "max_tokens": 9}
        assert own.completions.create(**asked).choices[0].text
        if password != "":
            with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
                client(url, "another").models.list()
        stream = own.completions.create(**{**asked, "max_tokens": 100, "temperature": 1, "n": 4}, stream=True)
        next(iter(stream))  # who is being answered does not keep it
        server.send_signal(signal.SIGTERM if password else signal.SIGINT)
        out, err = server.communicate(timeout=PATIENCE)
        assert (server.returncode, out.strip(), err) == (0, "stopped", "")
    finally:
        server.kill()
        server.wait()


def test_what_cannot_be_served_is_one_line(folder: Path) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for words, line in (
            (
                [str(folder), "--port", str(port)],
                f"serve: port {port}: Address already in use; --port 0 takes any free one",
            ),
            ([str(folder), "--port", "70000"], "serve: --port 70000: must be a port, or 0 for any free one"),
            ([str(folder), "--port", "0", "--rows", "0"], "serve: --rows 0 --context 4096: must be at least 1 and 2"),
            ([str(folder / "none"), "--port", "0"], f"serve: {folder}/none/config.json: no such file"),
        ):
            server = command(*words)
            out, err = server.communicate(timeout=PATIENCE)
            assert (server.returncode, out, err.count("\n")) == (2, "", 1) and err.startswith(line), err
