"""How a training run is spread over ranks. It is a matter of the machine, so the environment says it and no parameter."""

import os

from lm.config import ConfigError
from lm.training.parallel.base import Parallel
from lm.training.parallel.exact import Exact

KINDS = ("exact",)


def chosen(shards: int) -> Parallel:
    """What TOKENMILL_PARALLEL names: exact, where it is not set."""
    kind = os.environ.get("TOKENMILL_PARALLEL", "exact")
    if kind == "exact":
        return Exact(shards)
    raise ConfigError(f"TOKENMILL_PARALLEL: no {kind!r} (allowed: {', '.join(KINDS)})")
