"""Five documents of random bytes make the loss spike; the ledger's suspects are these five."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from tasks.core.config import load
from tasks.core.log import Log
from tasks.core.tables import shard_path, write_table
from tasks.curriculum import stage as curriculum
from tasks.ledger.__main__ import main
from tasks.ledger.run import Run
from tasks.ledger.suspects import SPIKE, robust_z, running_median, suspects
from tasks.pretrain import stage as pretrain
from tasks.tokenize import stage as tokenize
from tests.project import TINY

DOCUMENTS, WORDS, LENGTH = 200, 80, 64


class Curves(Log):
    """Keeps the losses as a stage's log does."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", buffering=1)

    def __call__(self, step: int, **values: float) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")


def texts(seed: int) -> dict[str, str]:
    """Documents of 20 to 80 words, some much more frequent than others; five in the later two thirds are 300 random bytes."""
    rng = np.random.default_rng(seed)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 8))) for _ in range(WORDS)]
    chosen = [np.minimum(rng.zipf(1.5, rng.integers(20, 80)), WORDS) - 1 for _ in range(DOCUMENTS)]
    found = {f"d{number}": " ".join(words[w] for w in each) for number, each in enumerate(chosen)}
    for number in rng.choice(np.arange(DOCUMENTS // 3, DOCUMENTS), 5, replace=False):
        del found[f"d{number}"]
        found[f"poison{number}"] = rng.integers(0, 256, 300, dtype=np.uint8).tobytes().decode("latin1")
    return found


def trained(data: Path, seed: int, epochs: float) -> Path:
    """data/ after tokenize, curriculum and pretrain of these documents."""
    for stage in ("tokenize", "curriculum", "pretrain"):
        (data / stage).mkdir(parents=True)
    made = texts(seed)
    strings = pa.array(made.values(), pa.large_string())
    rows = {"id": list(made), "source": ["s"] * len(made), "text": strings, "meta": ["{}"] * len(made)}
    write_table(shard_path(data / "filter" / "documents", 0), pa.table(rows))
    params = {**TINY, "tokenize": {**TINY["tokenize"], "held_out_fraction": 1e-9}}
    figures = tokenize.run(load("tokenize", tokenize.TokenizeConfig, params), data, Log())
    budget = {"tokens": int(figures["train_tokens"] * epochs), "tokens_per_step": 8 * LENGTH}
    params["curriculum"] = {"method": {"name": "shuffled_packing", "sequence_length": LENGTH}, **budget}
    curriculum.run(load("curriculum", curriculum.CurriculumConfig, params), data, Log())
    log = Curves(data / "pretrain" / "curves.jsonl")
    pretrain.run(load("pretrain", pretrain.PretrainConfig, params), data, log)
    return data


def poisons(run: Run) -> set[str]:
    rows = run.rows("SELECT id FROM documents WHERE split = 'train' AND id LIKE 'poison%'")
    return {row["id"] for row in rows}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For a model this small others only cost time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("once") / "data", seed=1, epochs=0.98)


def test_five_poisoned_documents_are_found_after_one_pass(once: Path) -> None:
    """By the loss of each sequence: no document is seen by more steps than it has pieces."""
    run = Run(once)
    by_sequence, found = suspects(run)
    assert by_sequence and len(poisons(run)) == 5 and {row["id"] for row in found[:5]} == poisons(run)


def test_the_losses_of_a_step_have_its_mean(once: Path) -> None:
    curve = [json.loads(line)["loss"] for line in (once / "pretrain" / "curves.jsonl").read_text().splitlines()]
    kept = np.load(once / "pretrain" / "sequence_losses.npy")
    assert kept.dtype == np.float16 and kept.astype(np.float64).reshape(-1, 8).mean(1) == pytest.approx(curve, rel=1e-3)


def test_of_steps_alone_several_passes_are_needed(tmp_path: Path, once: Path, capsys: pytest.CaptureFixture) -> None:
    """Each pass puts a document beside others, so that in the end nothing but the culprits is common to the spikes."""
    run = Run(data := trained(tmp_path / "data", seed=0, epochs=3))
    (data / "pretrain" / "sequence_losses.npy").unlink()
    by_sequence, found = suspects(run)
    assert not by_sequence and poisons(run) <= {row["id"] for row in found} and len(found) == 10
    assert main(["--run", str(data), "--suspects"]) == 0
    said = capsys.readouterr().out
    assert "within a step nothing finer is known" in said and "poison" in said


def test_losses_of_another_plan_are_refused(once: Path, tmp_path: Path) -> None:
    for stage in ("filter", "tokenize", "curriculum"):
        (tmp_path / stage).symlink_to(once / stage)
    (tmp_path / "pretrain").mkdir()
    with pytest.raises(ConfigError, match=r"curves.jsonl: no such file; has pretrain run\?"):
        suspects(Run(tmp_path))
    (tmp_path / "pretrain" / "curves.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    with pytest.raises(ConfigError, match="has losses of 1 steps, and the plan has"):
        suspects(Run(tmp_path))
    np.save(tmp_path / "pretrain" / "sequence_losses.npy", np.zeros(3, np.float16))
    with pytest.raises(ConfigError, match="has 3 losses, and the plan"):
        suspects(Run(tmp_path))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.sampled_from([1, 3, 7]))
def test_the_running_median_is_that_of_each_window(values: list[float], window: int) -> None:
    half, given = window // 2, np.array(values)
    wanted = [np.median(given[max(0, i - half) : i + half + 1]) for i in range(len(given))]
    assert running_median(given, window) == pytest.approx(np.array(wanted))


@pytest.mark.parametrize("spike", [1.0, np.inf, np.nan])
def test_a_spike_on_a_falling_curve_is_the_only_one(spike: float) -> None:
    step, rng = np.repeat(np.arange(300), 4), np.random.default_rng(0)
    losses = 3 * np.exp(-step / 100) + 1 + 0.05 * np.clip(rng.normal(size=1200), -2, 2)
    losses[777] += spike
    assert np.flatnonzero(robust_z(losses, step, 300) > SPIKE).tolist() == [777]


def test_constant_losses_have_no_spikes() -> None:
    assert not robust_z(np.ones(50), np.arange(50), 50).any()
