"""Rollouts as data: what is kept of each answer, and the same bytes whether the run was killed or not."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lm.checkpoint import save_model
from tasks.core.process import Stopped
from tasks.rl.rewards import Correct, Repetition
from tasks.rl.stage import run
from tests.project import digest
from tests.rl.toys import TOKENIZER, Interrupted, Parity, config, policy, trained

KEPT = {"keep_rollouts": True, "resample": 1, "rewards": [Correct(), Repetition(n=1)]}


def test_every_answer_is_kept_and_changes_no_weight(tmp_path: Path) -> None:
    given = config(**KEPT)
    trained(tmp_path / "kept", given)
    trained(tmp_path / "plain", given.model_copy(update={"keep_rollouts": False}))
    model = "rl/model.safetensors"
    assert (tmp_path / "kept" / model).read_bytes() == (tmp_path / "plain" / model).read_bytes()
    assert not (tmp_path / "plain/rl/rollouts.parquet").exists()
    rows = pq.read_table(tmp_path / "kept/rl/rollouts.parquet").to_pylist()
    problems = {example.id: example for example in Parity().examples("rl")}
    assert {row["rollout"] for row in rows} == {0, 1} and {row["policy"] for row in rows} == {0, 4}
    assert len(rows) >= 32 and {row["sample"] for row in rows} == set(range(4))
    for row in rows:
        example = problems[row["problem"]]
        score = Parity().score(example, TOKENIZER.decode(row["ids"]))
        assert row["prompt_ids"] == TOKENIZER.chat(example.prompt) and row["level"] == example.level
        assert row["score"] == row["reward_correct"] == (score.value if score.valid else None)
        assert len(row["logps"]) == len(row["ids"]) <= 6 and max(row["logps"]) <= 0
        assert row["finished"] == (row["ids"][-1] == TOKENIZER.end_id)
        if score.valid:
            assert row["reward"] == pytest.approx(row["score"] - row["reward_repetition"], abs=1e-6)
        else:
            assert row["reward"] is None and row["advantage"] == 0 and not row["learned"]
    assert {row["learned"] for row in rows if row["reward"] is not None} == {True, False}


def test_killed_after_every_update_it_keeps_the_same(tmp_path: Path) -> None:
    given = config(**KEPT)
    whole, _ = trained(tmp_path / "whole", given)
    for folder in ("sft", "rl", "scratch"):
        (tmp_path / folder).mkdir()
    save_model(tmp_path / "sft", policy(), TOKENIZER)
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, tmp_path, Interrupted(tmp_path / "scratch"))
    for _ in range(2):  # killed once more, when all was done but for the end
        run(given, tmp_path, Interrupted(tmp_path / "scratch"))
        assert digest(tmp_path / "rl") == whole
