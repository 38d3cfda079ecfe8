"""Lines of threads and processes that share a pipe."""

import os
import subprocess
import sys

import pytest

TWO_THREADS = """
import sys, threading
from tasks.runner.say import say
def lines(of):
    for _ in range(1000):
        say(of * 40, error=True)
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=lines, args=(letter,)) for letter in "ab"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_whole_whatever_another_thread_or_process_says(unbuffered: str) -> None:
    """`print` in its place mixes some hundred of these lines where PYTHONUNBUFFERED is set, as images and CI set it."""
    reads, writes = os.pipe()
    command = [sys.executable, "-c", TWO_THREADS]
    talkers = [
        subprocess.Popen(command, stderr=writes, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}) for _ in range(2)
    ]
    os.close(writes)
    with os.fdopen(reads) as pipe:
        lines = pipe.read().splitlines()
    assert [talker.wait() for talker in talkers] == [0, 0]
    assert sorted(lines) == ["a" * 40] * 2000 + ["b" * 40] * 2000
