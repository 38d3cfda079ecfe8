"""Every batch of a plan, made again of the documents' texts, is the batch that pretraining sees."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lm.config import ConfigError
from lm.training.data.plan import Plan
from tasks.core.tables import read_table, shard_paths, write_table
from tasks.ledger.run import Run
from tasks.ledger.steps import rebuild
from tests.project import TINY, run_stage
from tests.tiny import Tiny

BPE = {"method": {"name": "bpe", "vocab_size": 400}, "held_out_fraction": 0.1}
BUCKETS = {
    "method": {"name": "length_buckets", "min_length": 4, "max_length": 16},
    "tokens": 8192,
    "tokens_per_step": 256,
}
PREFIXED = {
    "method": {"name": "best_fit_packing", "sequence_length": 32},
    "prefix": {"name": "metadata_conditioning"},
    "tokens": 8192,
    "tokens_per_step": 256,
}
VARIANTS = {
    "packed": TINY,
    "buckets": {**TINY, "tokenize": BPE, "curriculum": BUCKETS},
    "prefixed": {**TINY, "tokenize": BPE, "curriculum": PREFIXED},
}


@pytest.fixture(scope="module", params=VARIANTS)
def data(request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ of the stages up to the plan, in processes as DVC starts them."""
    project = tiny.project(tmp_path_factory.mktemp(request.param), "filter", VARIANTS[request.param])
    for stage in ("tokenize", "curriculum"):
        run_stage(project, stage)
    return project / "data"


def change(data: Path, to: Callable[[str], str]) -> None:
    """Other texts in place of those that filter left."""
    for file in shard_paths(data / "filter" / "documents"):
        table = read_table(file)
        texts = pa.array([to(text) for text in table.column("text").to_pylist()], pa.large_string())
        write_table(file, table.set_column(table.schema.get_field_index("text"), "text", texts))


def test_every_batch_again_byte_for_byte(data: Path) -> None:
    plan, run = Plan(data / "curriculum", data / "tokenize"), Run(data)
    assert plan.steps == 32
    for step in range(plan.steps):
        made, seen = rebuild(run, step), plan.batch(step).numpy()
        assert made.dtype == seen.dtype and made.shape == seen.shape and made.tobytes() == seen.tobytes()


def test_another_text_is_another_batch(data: Path, tmp_path: Path) -> None:
    """What is made again comes out of the texts, not out of the tokens."""
    shutil.copytree(data, tmp_path / "data")
    change(tmp_path / "data", lambda text: text[::-1])
    made = rebuild(Run(tmp_path / "data"), 0)
    assert not np.array_equal(made, Plan(data / "curriculum", data / "tokenize").batch(0).numpy())


def test_a_text_that_became_shorter_is_named(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    change(tmp_path / "data", lambda text: "")
    with pytest.raises(ConfigError, match="its text has 1 tokens, too few"):
        rebuild(Run(tmp_path / "data"), 0)
