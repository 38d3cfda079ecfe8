"""What decides a training stage but for its steps, and the trunks that it shares with other runs of that stage.

TOKENMILL_TRUNKS names the folder of all trunks, which several clones and worktrees may share; where it is not set, or empty,
there are none. TOKENMILL_TRUNKS_SIZE is the MiB that they may fill.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.distributed import world_size
from lm.inputs.hashed import read_ignored
from lm.model import Decoder
from lm.settings import OFFLOAD, PARALLEL, POSITIONS
from lm.training.data.sequence_losses import SequenceLosses
from lm.training.memory import memory_bytes
from lm.training.recipe import Recipe
from lm.training.trunks.chain import branching, digest_of
from lm.training.trunks.store import TrunkStore
from lm.training.trunks.trunks import Trunks
from tasks.core.config import read_params
from tasks.core.log import Log
from tasks.runner.graph import read_graph
from tasks.runner.key import dependency_md5s, memo_key, signature
from tasks.runner.machine import hardware
from tasks.runner.say import say
from tasks.runner.settings import TRUNKS, TRUNKS_SIZE

# What the links of a chain say of every step, so that it need not be the same for all of them
IN_LINKS = {"schedule", "average", "steps"}
# Settings of ours that decide how many positions and ranks sums are made of
OURS = (OFFLOAD.name, PARALLEL.name, POSITIONS.name)
LIBRARIES = ("torch", "numpy", "tokenizers", "triton", "deepspeed")


def trunks_of(
    stage: str,
    log: Log,
    config: Recipe,
    steps: int,
    models: list[Decoder],
    given: list[Any],
    seen: Callable[[int], Iterable[Any]],
    losses: SequenceLosses | None = None,
) -> Trunks | None:
    """The trunks of a run that is about to begin; None where there are none, as on any rank but the first.

    models: those that its loss depends on, with their first weights. given: what else its output depends on in every step.
    seen(step): the data that decide a step, given the weights. Says so where the schedule leaves nothing to share. Raises
    ConfigError for a size that is none.
    """
    folder = TRUNKS.read()
    if not folder or log.scratch is None:
        return None
    if not branching(config, steps):
        name = config.schedule.name
        say(f"{stage}: shares no trunk: with {name} every step depends on their number, with wsd not")
        return None
    found = code_of(stage, log)
    if found is None:
        return None
    code, unchanged = found
    params = {
        f"{stage}.{name}": value for name, value in config.model_dump(mode="json").items() if name not in IN_LINKS
    }
    decided = {
        **code,
        **{name: json.dumps(value, sort_keys=True) for name, value in params.items()},
        **machine_fingerprint(models[0].embedding.weight.device),
        "models": json.dumps([model.config.model_dump(mode="json") for model in models]),
        "first weights": digest_of(*(part for model in models for item in model.state_dict().items() for part in item)),
        "tokenizer and texts": digest_of(*given),
    }
    store = TrunkStore(Path(folder), max_trunk_bytes())
    return Trunks(store, stage, decided, config, steps, seen, StageLines(log.scratch, losses), unchanged)


def max_trunk_bytes() -> int:
    """Bytes that all trunks may fill: TOKENMILL_TRUNKS_SIZE in MiB, else 16 GiB."""
    return TRUNKS_SIZE.read() << 20


def code_of(stage: str, log: Log) -> tuple[dict[str, str], Callable[[], bool]] | None:
    """(md5 of each file and folder of code that the stage depends on, whether these and its data are as they were); None when
    code has changed since the stage began, so that what runs may not be what is there."""
    entry, ignored = read_graph()[stage], read_ignored()
    code = replace(entry, deps=[path for path in entry.deps if not path.startswith("data/")])
    before, md5s = signature(entry, ignored), dependency_md5s(code, ignored)
    if log.memo is not None and log.memo.name != memo_key(entry, md5s, read_params()):
        return None
    return {p: md5 for p, md5 in md5s.items() if not in_links(p)}, lambda: signature(entry, ignored) == before


def in_links(path: str) -> bool:
    """Whether it is code of a schedule or an average, whose values the links hold."""
    return path.startswith(("lm/schedules/", "lm/averages/"))


def machine_fingerprint(device: torch.device) -> dict[str, str]:
    """What of this machine, its libraries and its settings decides the bits of a sum."""
    kind = PARALLEL.read()
    found: dict[str, Any] = {
        "memory": memory_bytes(device),
        "ranks": 1 if kind == "exact" else world_size(),  # exact gives the same bits for any
        "Python": platform.python_version_tuple()[:2],
    }
    found |= {name: _version(name) for name in LIBRARIES} | {name: os.environ.get(name) for name in OURS}
    return hardware() | {name: json.dumps(value) for name, value in found.items()}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


class StageLines:
    """What a stage has said of its steps: lines beside the scratch of its checkpoints, and losses of sequences."""

    def __init__(self, scratch: Path, losses: SequenceLosses | None) -> None:
        self._folder, self._losses = scratch.parent, losses

    def until(self, steps: int) -> dict[str, Tensor]:
        """Lines, as bytes by file, and losses of the first `steps` steps, which are all that there have been."""
        texts = {path.name: path.read_bytes() for path in sorted(self._folder.glob("*.jsonl"))}
        found = {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in texts.items() if text}
        return found | ({"losses": self._losses.until(steps)} if self._losses else {})

    def restore(self, found: dict[str, Tensor]) -> None:
        """Have it said; the log reads the lines again when the loop tells it from which step on it goes."""
        for name, tensor in found.items():
            if name.endswith(".jsonl"):
                (self._folder / name).write_bytes(tensor.numpy().tobytes())
        if self._losses:
            self._losses.begin_with(found["losses"])
