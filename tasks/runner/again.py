"""Another try of what a store refuses for a moment: its database is locked, its disk is full, its server starts again."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

# What MLflow says of a request that no other try would mend.
FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST", "PERMISSION_DENIED")
RETRY_SECONDS = 0.5
Result = TypeVar("Result")


def is_final(error: Exception) -> bool:
    """Whether the store would give the same error again."""
    return getattr(error, "error_code", None) in FINAL


def retry_until(deadline: float, work: Callable[[], Result]) -> Result:
    """What the work returns, tried again until this time of the monotonic clock. Raises the last error."""
    while True:
        try:
            return work()
        except Exception as error:
            if is_final(error) or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def in_batches(waiting: list[Any], size: int, send: Callable[[list[Any]], None]) -> None:
    """Send what waits, and take each batch off the list once the store has it, or says that it never will. Raises what sending
    raises."""
    while waiting:
        try:
            send(waiting[:size])
        except Exception as error:
            if is_final(error):
                del waiting[:size]
            raise
        del waiting[:size]
