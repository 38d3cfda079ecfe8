"""A small file system over a folder, for tests that fill it up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def may_mount(folder: Path, size: str | int) -> Iterator[bool]:
    """Whether the folder is such a file system meanwhile (size as of `mount`: bytes, or 24m), which takes a right that not
    every machine gives."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mounted = not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def small_disk(folder: Path, size: str | int) -> Iterator[Path]:
    """The folder as such a file system; the test is skipped where none may be mounted."""
    with may_mount(folder, size) as mounted:
        if not mounted:
            pytest.skip("may not mount a file system here")
        yield folder
