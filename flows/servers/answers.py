"""What answers at a URL: one way to ask, with no proxy before this machine and those of the environment before any other; and
the names by which a server of this machine is asked."""

import json
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from flows.servers.password import header

SECONDS = 2.0
HERE = ("127.0.0.1", "localhost", "::1")


def names_of(port: int) -> list[str]:
    """What `Host` says of whoever came to a port of this machine: without the port where it is 80, which clients leave out."""
    return [f"{name}{ending}" for ending in ([f":{port}", ""] if port == 80 else [f":{port}"]) for name in HERE[:2]]


def opener_for(url: str) -> OpenerDirector:
    """What opens a URL: directly on this machine, else through the proxy that the environment names."""
    return build_opener(ProxyHandler({})) if urlsplit(url).hostname in HERE else build_opener()


def post(url: str, body: dict[str, Any], password: str | None = None) -> bytes | None:
    """The answer to a POST of JSON, None when nobody answers it with success within SECONDS."""
    headers = {**header(password), "Content-Type": "application/json"}
    return _answered(url, json.dumps(body).encode(), headers)


def get(url: str, password: str | None = None) -> bytes | None:
    """The body of a GET, None while nobody answers it with success within SECONDS."""
    return _answered(url, None, header(password))


def server_answers(api: str) -> bool:
    """True if a Prefect server answers at this API URL."""
    return get(f"{api.rstrip('/')}/health") is not None


def _answered(url: str, body: bytes | None, headers: dict[str, str]) -> bytes | None:
    try:
        with opener_for(url).open(Request(url, body, headers), timeout=SECONDS) as response:
            return response.read()
    except (OSError, HTTPException, ValueError):  # nobody there, no HTTP, or no URL
        return None
