"""A call that goes on in a process of its own, on another core where there is one, while this one does something else."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


def call_in_fork(call: Callable[[], T]) -> Callable[[], T]:
    """Begin a call in a fork of this process, which spares it all imports; the function that comes back waits for what it
    returns, and raises what it raises, or EOFError where its process was ended.

    To be begun before this process has threads or has touched a GPU, which a fork has not or cannot use. The process ends with
    this one, and by itself once it has answered.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(call, sender), daemon=True)
    process.start()
    sender.close()

    def answer() -> T:
        value, error = receiver.recv()
        process.join()
        if error:
            raise error
        return value

    return answer


def _answer(call: Callable[[], object], sender: Connection) -> None:
    try:
        sender.send((call(), None))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the answer is waited for
        sender.send((None, error))
