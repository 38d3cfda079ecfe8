"""The password of `make ui`: TOKENMILL_PASSWORD, or one made for this start, handed to each server in the way it wants it.

Every account of a machine reaches 127.0.0.1, and who reaches the form reads what its owner may read.

It travels in environments of child processes alone: a command line is seen by every user of the machine, and a file stays.
"""

import base64
import hmac
import os
import secrets
from collections.abc import Mapping, MutableMapping

from flows.settings import PASSWORD

VARIABLE = PASSWORD.name
USER = "admin"
SHORTEST = 12  # what MLflow asks for
RANDOM_BYTES = 18


class PasswordError(ValueError):
    """A password that a server would not take; the message does not quote it."""


def take_password(variables: MutableMapping[str, str] = os.environ) -> str | None:
    """The password: the variable's, a random one without the variable, None where it is set and empty. It is taken out of the
    environment, so that what is started from here does not inherit it. Raises PasswordError."""
    password = variables.pop(VARIABLE, None)
    if password is None:
        return random_password()
    if not password:
        return None
    if len(password) < SHORTEST or not (password.isascii() and password.isprintable()) or password != password.strip():
        raise PasswordError(
            f"{VARIABLE}: needs {SHORTEST} characters or more of printable ASCII, without spaces at its ends; "
            f"without the variable a random one is made, and `{VARIABLE}=` asks for none"
        )
    return password


def random_password() -> str:
    """24 characters that nobody guesses."""
    return secrets.token_urlsafe(RANDOM_BYTES)


def for_temporary_server() -> dict[str, str]:
    """Settings of a Prefect server that serves this process and its children alone, and of these: other accounts of the machine
    can reach it for as long as it lives."""
    secret = pair(random_password())
    return {"PREFECT_SERVER_API_AUTH_STRING": secret, "PREFECT_API_AUTH_STRING": secret}


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
