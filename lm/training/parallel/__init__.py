"""How a training run is spread over ranks. It is a matter of the machine, so the environment says it and no parameter."""

import os

from lm.config import ConfigError
from lm.distributed import world_size
from lm.settings import OFFLOAD, PARALLEL
from lm.training.parallel.base import Parallel
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe


def make_parallel(recipe: Recipe) -> Parallel:
    """What TOKENMILL_PARALLEL names, exact where it is not set; TOKENMILL_OFFLOAD=1 keeps in host memory what it can.

    A run of one process is exact, whatever they say. Raises ConfigError for a kind there is not.
    """
    kind, offload = PARALLEL.read(), OFFLOAD.read() == "1"
    if offload and kind in ("exact", "ddp"):
        raise ConfigError(f"{OFFLOAD.name}: {kind} keeps all weights on the device: use fsdp or a zero")
    if kind == "exact" or world_size() == 1:
        return Exact(recipe.shards)
    if recipe.recompute == "selective" and kind != "ddp":
        raise ConfigError(
            f"recompute: selective is known to hold with exact and ddp alone: set {PARALLEL.name} to one of them"
        )
    # each imported when it is chosen: FSDP and DeepSpeed take seconds
    if kind == "ddp":
        from lm.training.parallel.ddp import DDP

        return DDP()
    if kind == "fsdp":
        from lm.training.parallel.fsdp import FSDP

        return FSDP(recipe, offload)
    from lm.training.parallel.zero import Zero

    return Zero(int(kind[-1]), offload, recipe)


def parts_of_a_batch(recipe: Recipe) -> int:
    """Into how many equal parts the rows of every batch must divide."""
    return recipe.shards if PARALLEL.read() == "exact" or world_size() == 1 else world_size()
