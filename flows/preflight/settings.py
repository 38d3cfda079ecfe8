"""Execution settings: environment variables that a stage would otherwise read an hour into a run."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

from flows.preflight.finding import Finding, one_line
from tasks.runner.devices import present
from tasks.runner.ranks import too_few
from tasks.runner.resume import ANYWAY, SETTING

WHOLE = {  # and the least that each may be
    "TOKENMILL_WORKERS": 1,
    "TOKENMILL_THREADS": 1,
    "TOKENMILL_MEMORY": 1,
    "TOKENMILL_SHARD_WORKERS": 1,
    "TOKENMILL_POSITIONS": 0,
    "TOKENMILL_RANKS": 1,
}


def check_settings() -> Iterator[Finding]:
    """Numbers that are none, and a runner of shards that cannot be imported."""
    for name, least in WHOLE.items():
        text = os.environ.get(name)
        if text and not (text.isdecimal() and int(text) >= least):
            yield Finding(name, f"{text!r} is no whole number of at least {least}", f"set it to one, or `unset {name}`")
    if (text := os.environ.get(SETTING, "")) not in ("", ANYWAY):
        yield Finding(SETTING, f"no {text!r}", f"set it to {ANYWAY}, or `unset {SETTING}`")
    seconds = os.environ.get("TOKENMILL_CHECKPOINT_SECONDS", "20")
    try:
        float(seconds)
    except ValueError:
        yield Finding(
            "TOKENMILL_CHECKPOINT_SECONDS", f"{seconds!r} is no number of seconds", "set it to one, such as 20"
        )
    if kind := os.environ.get("TOKENMILL_PARALLEL"):
        from lm.training.parallel import KINDS  # imports torch

        if kind not in KINDS:
            yield Finding("TOKENMILL_PARALLEL", f"no {kind!r}", f"use one of {', '.join(KINDS)}")
    if runner := os.environ.get("TOKENMILL_RUNNER"):
        module, _, function = runner.partition(":")
        try:
            getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            yield Finding(
                "TOKENMILL_RUNNER", f"{runner!r} is no module:function: {one_line(error)}", "try flows.shards:on_dask"
            )


def gpus() -> int:
    """Number of GPUs that torch can use here."""
    if not present():
        return 0
    import torch  # takes a second and a half

    return torch.cuda.device_count()


def check_ranks(params: dict[str, Any]) -> Iterator[Finding]:
    """TOKENMILL_RANKS processes need a GPU each, where the stages that train run here and find any, and share the shards of
    each, unless TOKENMILL_PARALLEL says otherwise."""
    text = os.environ.get("TOKENMILL_RANKS", "1")
    if not text.isdecimal():
        return
    ranks = int(text)
    if ranks > 1 and not os.environ.get("TOKENMILL_POOLS") and (few := too_few(ranks, gpus())):
        yield Finding("TOKENMILL_RANKS", *few)
    if os.environ.get("TOKENMILL_PARALLEL", "exact") != "exact":
        return
    if ranks & (ranks - 1):
        yield Finding("TOKENMILL_RANKS", f"{ranks} is no power of two, and shards are", "set it to one")
    for name, section in params.items():
        shards = section.get("shards", 1) if isinstance(section, dict) and "optimizer" in section else ranks
        if shards < ranks:
            yield Finding(
                f"params.yaml: {name}.shards", f"{shards} cannot be divided among {ranks} ranks", f"set it to {ranks}"
            )
