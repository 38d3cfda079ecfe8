"""What goes on beside the toy run gives its answer, its error, or the news of its end."""

import os
from functools import partial

import pytest

from flows.preflight.call_in_fork import call_in_fork


def fails() -> int:
    raise ValueError("no such stage")


def test_an_answer_of_another_process_is_waited_for() -> None:
    answer = call_in_fork(os.getpid)
    assert answer() not in (0, os.getpid())


def test_what_it_raises_is_raised_where_it_is_waited_for() -> None:
    answer = call_in_fork(fails)
    with pytest.raises(ValueError, match="no such stage"):
        answer()


def test_a_process_that_was_ended_is_no_answer() -> None:
    answer = call_in_fork(partial(os._exit, 3))
    with pytest.raises(EOFError):
        answer()
