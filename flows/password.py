"""The password of `make ui`: TOKENMILL_PASSWORD, checked once, and handed to each server in the way it wants it.

It travels in environments of child processes alone: a command line is seen by every user of the machine, and a file stays.
"""

import base64
import hmac
import os
from collections.abc import Mapping, MutableMapping

VARIABLE = "TOKENMILL_PASSWORD"
USER = "admin"
SHORTEST = 12  # what MLflow asks for


class PasswordError(ValueError):
    """A password that a server would not take; the message does not quote it."""


def take_password(variables: MutableMapping[str, str] = os.environ) -> str | None:
    """The password, None when there is to be none. It is taken out of the environment, so that what is started from here does
    not inherit it. Raises PasswordError."""
    password = variables.pop(VARIABLE, None)
    if password is None:
        return None
    if len(password) < SHORTEST or not (password.isascii() and password.isprintable()) or password != password.strip():
        raise PasswordError(
            f"{VARIABLE}: needs {SHORTEST} characters or more of printable ASCII, without spaces at its ends; "
            "without the variable the servers ask for none"
        )
    return password


def pair(password: str) -> str:
    """What a person types on Prefect's page, and what its clients send."""
    return f"{USER}:{password}"


def header(password: str | None) -> dict[str, str]:
    """The header of a request that logs in."""
    return {"Authorization": "Basic " + base64.b64encode(pair(password).encode()).decode()} if password else {}


def admits(headers: Mapping[str, str], password: str | None) -> bool:
    """Whether a request with these headers may be answered."""
    wanted = header(password).get("Authorization", "")
    return hmac.compare_digest(headers.get("Authorization", "").encode(), wanted.encode()) or not wanted
