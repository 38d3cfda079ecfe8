"""Execution settings: environment variables that a stage would otherwise read an hour into a run."""

import importlib
import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from flows.settings import POOLS, all_settings
from lm.config import ConfigError
from lm.settings import PARALLEL, RUNNER
from tasks.about.finding import Finding, one_line
from tasks.runner.devices import present
from tasks.runner.ranks import too_few
from tasks.runner.settings import RANKS

OURS = "TOKENMILL_"


def check_settings() -> Iterator[Finding]:
    """Variables of ours that are no setting or have no value that is one, and a runner of shards that cannot be imported."""
    known = {setting.name: setting for setting in all_settings()}
    for name in sorted(name for name in os.environ if name.startswith(OURS) and name not in known):
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        yield Finding(name, "is no setting", f"did you mean {near[0]}?" if near else "`tokenmill settings` lists them")
    for setting in known.values():
        try:
            setting.read()
        except ConfigError as error:
            yield Finding(setting.name, str(error).partition(": ")[2], f"set it so, or `unset {setting.name}`")
    if name := RUNNER.read():
        module, _, function = name.partition(":")
        try:
            getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            yield Finding(RUNNER.name, f"{name!r} is no module:function: {one_line(error)}", "try flows.shards:on_dask")


def gpus() -> int:
    """Number of GPUs that torch can use here."""
    if not present():
        return 0
    import torch  # takes a second and a half

    return torch.cuda.device_count()


def check_ranks(params: dict[str, Any], stages: Iterable[str]) -> Iterator[Finding]:
    """TOKENMILL_RANKS processes need a GPU each, where the stages that train run here and find any, and share the shards of
    each of these stages, unless TOKENMILL_PARALLEL says otherwise."""
    try:
        ranks, pools, parallel = RANKS.read(), POOLS.read(), PARALLEL.read()
    except ConfigError:  # check_settings says so
        return
    if ranks > 1 and not pools and (few := too_few(ranks, gpus())):
        yield Finding("TOKENMILL_RANKS", *few)
    if parallel != "exact":
        return
    if ranks & (ranks - 1):
        yield Finding("TOKENMILL_RANKS", f"{ranks} is no power of two, and shards are", "set it to one")
    for name in dict.fromkeys(stages):
        section = params.get(name)
        shards = section.get("shards", 1) if isinstance(section, dict) and "optimizer" in section else ranks
        if shards < ranks:
            yield Finding(
                f"params.yaml: {name}.shards", f"{shards} cannot be divided among {ranks} ranks", f"set it to {ranks}"
            )
