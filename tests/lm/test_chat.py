"""Chat: a line in, a line out, the same every time; mistakes are one line."""

import subprocess
import sys
from pathlib import Path

from lm.chat import answers
from lm.checkpoint import save_model
from tests.lm.models import toy_model, toy_tokenizer


def chat(folder: Path, lines: bytes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lm.chat", str(folder), "--max-new-tokens", "3"]
    done = subprocess.run(command, input=lines, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_pipe_is_answered_to_its_end(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model(), toy_tokenizer())
    done = chat(tmp_path, b"1 + 1\n\n\xff broken")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == chat(tmp_path, b"1 + 1\n\n\xff broken").stdout


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    done = chat(tmp_path / "nothing", b"")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nothing/config.json: no such file" in done.stderr


def test_blank_lines_are_skipped_and_long_ones_are_told_so() -> None:
    said = list(answers(toy_model(), toy_tokenizer(), ["a\n", " \n", "b" * 100, "c"], 4, 0.0, 0))
    assert len(said) == 3
    assert "prompts must have 1 to 47 tokens" in said[1]
    assert said == list(answers(toy_model(), toy_tokenizer(), ["a", "b" * 100, "c"], 4, 0.0, 0))
