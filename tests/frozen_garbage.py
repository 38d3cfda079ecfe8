"""What is imported and collected stays to the end of a run, so the search for garbage leaves it out.

11,600 tests and the libraries that they import are some millions of objects. Python would look through all of them again and
again while they come to be, at each `gc.collect()` of a test, and five times more as pytest ends.
"""

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """In the process that hands tests to others, too, which collects none and has the libraries."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
