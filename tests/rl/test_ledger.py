"""Rollouts as data: what is kept of each answer, and the same bytes whether the run was killed or not."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from torch import Tensor

from lm.checkpoint import save_model
from lm.problems.example import Example, Score
from tasks.core.process import Stopped
from tasks.rl.advantages import BestAndWorst, Gae
from tasks.rl.demonstrations import Hybrid, Interleaved
from tasks.rl.losses import OnlineDpo, PolicyGradient
from tasks.rl.rewards import Correct, LengthBudget, Repetition
from tasks.rl.rollout import Rollout
from tasks.rl.stage import run
from tasks.rl.update import answers_of
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


class Hard(Parity):
    """Answers to every third problem are all wrong."""

    def score(self, example: Example, text: str) -> Score:
        return Score(0.0) if int(example.id) % 3 == 0 else super().score(example, text)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": 2},
        {"loss": PolicyGradient(kl=0.1)},
        {"loss": PolicyGradient(kl=0.1), "resample": 1},
        {"demonstrations": Hybrid()},
        {"demonstrations": Interleaved(batch=2), "resample": 1},
        {"advantage": Gae(), "demonstrations": Hybrid()},
        {"advantage": BestAndWorst(), "loss": OnlineDpo()},
        {"replay": 4},
        {"replay": 4, "loss": PolicyGradient(kl=0.1)},
        {"rewards": [Correct(), LengthBudget(weight=0.2)]},
    ],
    ids=lambda changes: " ".join(f"{name} {value!r:.24}" for name, value in changes.items()) or "plain",
)
def test_learned_is_what_the_updates_are_of(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the rows that updates are given, of the policy's and of the critic's."""
    given = config(Hard(), steps=6, updates=1, minibatches=2, keep_rollouts=True, **changes)
    learned = [Counter[tuple[int, ...]]() for _ in range(3)]
    steps = iter(range(6))

    def told(rollout: Rollout, rows_M: Tensor, weights_MT: Tensor, every: bool) -> dict[str, Tensor]:
        rows, now = answers_of(rollout, rows_M, weights_MT, every), learned[next(steps) // 2]
        read = rows["ids"] if rollout.values_BT is None else rollout.ids_BN[rows_M][rollout.mask_BT[rows_M].any(1)]
        now.update(without_padding(ids) for ids in read.tolist())
        return rows

    monkeypatch.setattr("tasks.rl.learning.answers_of", told)
    trained(tmp_path, given)
    rows = pq.read_table(tmp_path / "rl/rollouts.parquet").to_pylist()
    before = Counter[tuple[int, ...]]()
    for number, found in enumerate(learned):
        mine = [row for row in rows if row["rollout"] == number]
        said = Counter(without_padding(row["prompt_ids"] + row["ids"]) for row in mine if row["learned"])
        again = found - said
        assert said - found == Counter() and again.keys() <= before.keys() and (not again or "replay" in changes)
        before += said
    assert {row["learned"] for row in rows if row["reward"] is not None} >= {True}
    if not given.loss.learns_from_zero_advantages and given.advantage != Gae():
        assert all((row["advantage"] != 0) == row["learned"] for row in rows)
        assert {row["learned"] for row in rows if row["reward"] is not None} == {True, False}


def without_padding(ids: list[int]) -> tuple[int, ...]:
    """The tokens of a row up to its last that is no padding."""
    while ids[-1] == TOKENIZER.pad_id:
        ids = ids[:-1]
    return tuple(ids)
