"""Lines that threads and processes say into one pipe, each written whole."""

import sys


def say(line: object, *, error: bool = False) -> None:
    """Write a line to stdout or to stderr, and its end with it: `print` writes the two apart where PYTHONUNBUFFERED is set,
    and another thread's line comes between. Raises OSError where nobody reads."""
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()
