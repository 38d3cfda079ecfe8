"""Servers of this machine are reached without a proxy, whatever proxies the environment names."""

import os
from collections.abc import Mapping

LOCAL = ("127.0.0.1", "localhost", "::1")
NAMES = ("NO_PROXY", "no_proxy")
ALL = "*"


def without_proxy(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """NO_PROXY in both spellings, since every library reads one of them or prefers it: what either says, and this machine.

    A `*` stays alone: it means every host to urllib and requests only where nothing stands beside it.
    """
    named = [part.strip() for name in NAMES for part in variables.get(name, "").split(",")]
    text = ALL if ALL in named else ",".join(dict.fromkeys(filter(None, [*named, *LOCAL])))
    return dict.fromkeys(NAMES, text)
