"""The host waits for the device once in a step of the stage itself, prefixes, losses of sequences and all."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.averages import Last
from lm.checkpoint import save_model
from lm.model import ModelConfig
from lm.optimizers import Muon
from lm.schedules import Wsd
from tasks.core.config import Checkpoint
from tasks.core.log import Log
from tasks.pretrain.objectives import NextToken, Salt
from tasks.pretrain.stage import LOSSES, PretrainConfig, run
from tasks.pretrain.starts import Random
from tests.lm.models import toy_model, toy_tokenizer
from tests.lm.waits import Device

STEPS, ROWS, TOKENS = 4, 4, 17


def prepare(data: Path) -> Path:
    """A plan of STEPS steps over one document, in which every first sequence begins with a prefix."""
    for name in ("tokenize", "curriculum", "pretrain"):
        (data / name).mkdir(parents=True)
    toy_tokenizer().save(data / "tokenize")
    count = STEPS * ROWS * TOKENS
    np.save(data / "tokenize/tokens.npy", np.random.default_rng(0).integers(5, 261, count).astype(np.uint16))
    pq.write_table(pa.table({"start": [0], "length": [count], "bytes": [count]}), data / "tokenize/documents.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), data / "tokenize/held_out.parquet")
    np.save(data / "curriculum/prefixes.npy", np.array([7, 8, 9], dtype=np.uint32))
    rows = []
    for step in range(STEPS):
        for sequence in range(ROWS):
            prefix = 3 if sequence == 0 else 0
            rows += [(step, sequence, -2, 0, 3)] if prefix else []
            rows.append((step, sequence, 0, (step * ROWS + sequence) * TOKENS, TOKENS - prefix))
    columns = zip(("step", "sequence", "document", "offset", "length"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), data / "curriculum/plan.parquet")
    return data


class Counting(Log):
    """Keeps the points, and how many waits there were until each."""

    def __init__(self, device: Device | None = None) -> None:
        self.points: list[dict[str, float]] = []
        self._device, self.waits = device, list[int]()

    def __call__(self, step: int, **values: float) -> None:
        self.points.append(values)
        self.waits.append(len(self._device.waits) if self._device else 0)


def pretrain(data: Path, log: Log, objective: Any) -> np.ndarray:
    """The losses of all sequences. A small model that may teach lies beside the data."""
    small = data.parent / "small"
    small.mkdir(exist_ok=True)
    save_model(small, toy_model(layers=1, width=16, context=48), toy_tokenizer())
    shape = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_width": 48, "context": 48}
    config = PretrainConfig(
        start=Random(), checkpoint=Checkpoint(folder=str(small)), model=ModelConfig(**shape), objective=objective,
        optimizer=Muon(), schedule=Wsd(), average=Last(), skip_sigmas=6.0, seed=0,
    )  # fmt: skip
    run(config, prepare(data), log)
    return np.load(data / "pretrain" / LOSSES)


@pytest.mark.parametrize("objective", [NextToken(z_loss=1e-4), Salt(until=0.75)], ids=lambda objective: objective.name)
@pytest.mark.parametrize("positions", ["64", "32"], ids=["whole", "in parts"])
def test_one_wait_a_step(positions: str, objective: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    plain = Counting()
    wanted = pretrain(tmp_path / "plain", plain, objective)
    with monkeypatch.context() as patch, (device := Device(patch)):
        log = Counting(device)
        found = pretrain(tmp_path / "device", log, objective)
    assert [after - before for before, after in zip(log.waits, log.waits[1:], strict=False)] == [1] * (STEPS - 1)
    assert log.points == plain.points and np.array_equal(found, wanted) and not np.isnan(found).any()
