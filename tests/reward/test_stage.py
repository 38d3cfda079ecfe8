"""The stage on a small model: what it learns from and in which order, against plain formulas; that every parameter of it counts;
and that a run which was stopped ends in the same bytes."""

from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from lm.averages import Last
from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from lm.heads import ScalarHeads, heads_of, put_heads, read_scorer
from lm.intervals import wilson
from lm.linears import LoRA
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.pairs import Files, Mined, SelfPlay
from lm.pairs.query import Query
from lm.pairs.table import read_pairs
from lm.schedules import Cosine, Wsd
from lm.training.data.conversations import sample_indices
from lm.training.fast_forward import FastForward
from tasks.core.process import Stopped
from tasks.reward import losses
from tasks.reward.held_out import calibration_error
from tasks.reward.learning import ROUND_APART, Learning, member_counts
from tasks.reward.losses import BradleyTerry, Pointwise
from tasks.reward.losses.base import RewardLoss
from tasks.reward.rounds import Rounds, hardest
from tasks.reward.stage import RewardConfig, run
from tests.neighbours import assert_all_differ, every_neighbour
from tests.preference.made import TOKENIZER, Parity, rows, write_rows, writer
from tests.preference.test_stage import Interrupted, Said, sides
from tests.project import digest

CONSTANT = Wsd(warmup_fraction=0.0, decay_fraction=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs in a file."""
    return write_rows(tmp_path_factory.mktemp("preferences"), rows())


def config(folder: Path, **changes: Any) -> RewardConfig:
    given = {
        "model": "sft", "steps": 4, "batch": 4, "held_out_fraction": 0.2, "loss": BradleyTerry(), "pairs": [Files()],
        "folder": str(folder), "optimizer": AdamW(lr=0.003), "schedule": Cosine(), "average": Last(), "seed": 0,
    }  # fmt: skip
    checked = RewardConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic"}})
    return checked.model_copy(update={"problems": Parity()})


def trained(data: Path, given: RewardConfig, log: Said | None = None) -> tuple[Said, dict[str, float], Decoder]:
    """What was said, the metrics and the model with its heads."""
    for name in ("sft", "reward"):
        (data / name).mkdir(parents=True, exist_ok=True)
    save_model(data / "sft", writer(), TOKENIZER)
    log = log or Said()
    metrics = run(given, data, log)
    return log, metrics, read_scorer(data / "reward")[0]


def begun(given: RewardConfig) -> Decoder:
    """The model before the first step."""
    model = writer()
    put_heads(model, ScalarHeads(model.config.width, given.members, given.seed))
    return model


@torch.no_grad()
def plain_scores(model: Decoder, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """score_M of one sequence alone, at its end."""
    heads = heads_of(model)
    return model.eval().hidden(torch.tensor([prompt + answer]))[0, -1] @ heads.weight.T + heads.bias


def plain_margins(model: Decoder, row: dict[str, Any]) -> torch.Tensor:
    prompt, chosen, rejected = sides(row)
    return plain_scores(model, prompt, chosen) - plain_scores(model, prompt, rejected)


def plain_loss(given: RewardConfig, model: Decoder, all_rows: list[Any], places: list[int]) -> float:
    """Mean of the loss over these pairs and the heads that learn from each."""
    terms = []
    counts_PM = member_counts(places, given.members, given.share, given.seed)
    for place, counts_M in zip(places, counts_PM, strict=True):
        prompt, *answers = sides(all_rows[place])
        chosen_M, rejected_M = (plain_scores(model, prompt, answer) for answer in answers)
        loss_M = given.loss(chosen_M[None], rejected_M[None])[0]
        terms += [loss for loss, counted in zip(loss_M.tolist(), counts_M.tolist(), strict=True) if counted]
    return sum(terms) / len(terms)


METHODS = [*(method() for method in methods_of(losses)), BradleyTerry(margin=1.0, centre=0.1)]


@pytest.mark.parametrize("ensemble", [{}, {"members": 3}, {"members": 3, "share": 0.6}], ids=["one", "three", "shares"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("positions", [None, "40"], ids=["whole", "in parts"])
def test_each_step_is_the_mean_loss_of_its_pairs(
    method: RewardLoss, ensemble: dict[str, Any], positions: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The third one after two updates; chosen is chosen, whatever parts the step is made in."""
    if positions:
        monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    settings = {"loss": method, "schedule": CONSTANT, "held_out_fraction": 0.0, **ensemble}
    given = config(folder, steps=3, **settings)
    log, metrics, _ = trained(tmp_path / "three", given)
    *_, moved = trained(tmp_path / "two", config(folder, steps=2, **settings))
    assert metrics["pairs"] == 12 and "held_out_accuracy" not in metrics
    for step, model in ((0, begun(given)), (2, moved)):
        expected = plain_loss(given, model, rows(), sample_indices(step, 4, 12, 0))
        # fp32 sums of products of about 1 over 32 and 48 numbers, in another order
        assert log.steps[step]["loss"] == pytest.approx(expected, rel=2e-4, abs=2e-5)
    assert log.steps[2]["loss"] != pytest.approx(log.steps[0]["loss"], rel=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_better_answers_come_to_score_higher_than_worse_ones(method: RewardLoss, folder: Path, tmp_path: Path) -> None:
    given = config(folder, steps=40, batch=12, held_out_fraction=0.0, loss=method)
    log, _, model = trained(tmp_path, given)
    assert all(plain_margins(model, row).mean() > 0.5 for row in rows())
    assert log.steps[-1]["accuracy"] == 1 and log.steps[-1]["margin"] > 0.5


def test_what_is_held_out_is_not_learned_from_and_tells_how_others_are_ranked(folder: Path, tmp_path: Path) -> None:
    given = config(folder, steps=3, held_out_fraction=0.4, members=2)
    _, metrics, model = trained(tmp_path, given)
    table = pq.read_table(tmp_path / "reward/pairs.parquet").to_pylist()
    held = [row for row in table if row["held_out"]]
    assert 0 < len(held) < 12 and (metrics["held_out_pairs"], metrics["pairs"]) == (len(held), 12 - len(held))
    scores = [
        [plain_scores(model, row["prompt_ids"], row[f"{side}_ids"]) for side in ("chosen", "rejected")] for row in held
    ]
    margins = [(chosen - rejected).mean().item() for chosen, rejected in scores]
    right = sum(margin > 0 for margin in margins)
    assert metrics["held_out_accuracy"] == right / len(held)
    assert (metrics["held_out_accuracy_low"], metrics["held_out_accuracy_high"]) == wilson(right, len(held))
    expected = torch.tensor(margins).sigmoid().log().neg().mean().item()
    assert metrics["held_out_loss"] == pytest.approx(expected, abs=1e-4)
    spread = torch.stack([score for pair in scores for score in pair]).std(1, correction=0).mean().item()
    assert metrics["held_out_spread"] == pytest.approx(spread, abs=1e-4)
    learning = Learning(given, model, TOKENIZER, read_pairs(tmp_path / "reward"))
    learned = {place for step in range(3) for place in learning.chosen_at(step)}
    assert learned <= {place for place, row in enumerate(table) if not row["held_out"]} and len(learned) > 4


def test_calibration_by_hand() -> None:
    # three pairs held to be right with 0.8, of which two are: 0.8 - 2/3 apart; one with 0.55, which is not
    logit = torch.tensor([0.8, 0.55], dtype=torch.float64).logit()
    margin_P = torch.stack([logit[0], logit[0], -logit[0], -logit[1]])
    assert calibration_error(margin_P) == pytest.approx(3 / 4 * (0.8 - 2 / 3) + 1 / 4 * 0.55)
    assert calibration_error(torch.full((4,), 50.0, dtype=torch.float64)) == pytest.approx(0)
    assert calibration_error(torch.full((4,), -50.0, dtype=torch.float64)) == pytest.approx(1)


CHANGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": 5}],
    "batch": [{"batch": 3}],
    "held_out_fraction": [{"held_out_fraction": 0.0}],
    "loss": [{"loss": Pointwise()}],
    "members": [{"members": 2}, {"members": 3}],
    "share": [{"members": 3, "share": 0.5}, {"members": 3, "share": 0.7}],
    "rounds": [{"rounds": 2}, {"rounds": 4}],
    "hard_fraction": [{"rounds": 2, "hard_fraction": 0.6}],
    "pairs": [{"pairs": [source]} for source in (Mined(max_new_tokens=6), SelfPlay(max_new_tokens=6))],
    "query": [{"query": query} for query in (Query(above=0.5), Query(above=0.7), Query(above=0.5, ridge=3.0))],
    "seed": [{"seed": 1}],
    "optimizer": [{"optimizer": AdamW(lr=0.002)}],
    "clip": [{"clip": 0.01}],
    "precision": [{"precision": "bf16"}],
    "stream": [{"precision": "bf16", "stream": "bf16"}],
    "shards": [{"shards": 2}],
    "linear": [{"linear": LoRA(rank=2)}],
    "fast_forward": [{"fast_forward": FastForward(every=1, most=2)}],
}
# As for tests/rl/test_stage.py; folder: what is learned, not how
ELSEWHERE = {
    "schedule", "average", "compile", "deterministic", "skip_sigmas", "stop_factor", "problems", "model", "folder",
    "lookahead",
    "recompute",
    "rounding",
    "optimizer_states",
}  # fmt: skip


def test_every_parameter_changes_the_weights(folder: Path, tmp_path: Path) -> None:
    assert set(CHANGES) | ELSEWHERE == set(RewardConfig.model_fields)
    tries = [[changes] for settings in CHANGES.values() for changes in settings]
    tries += [[{"loss": method} for method in methods] for methods in every_neighbour(methods_of(losses))]
    folders = count()

    def made(changes: dict[str, Any]) -> bytes:
        data = tmp_path / str(next(folders))
        trained(data, config(folder, **changes))
        return (data / "reward/model.safetensors").read_bytes() + (data / "reward/heads.safetensors").read_bytes()

    assert_all_differ(made, tries)


def test_each_head_has_a_share_of_its_own() -> None:
    counts_PM = member_counts(list(range(200)), 3, 0.5, 0)
    assert all(80 < count < 120 for count in counts_PM.sum(0).tolist())
    assert not any(torch.equal(counts_PM[:, one], counts_PM[:, other]) for one in range(3) for other in range(one))
    assert torch.equal(counts_PM[50:60], member_counts(list(range(50, 60)), 3, 0.5, 0))
    assert not torch.equal(counts_PM, member_counts(list(range(200)), 3, 0.5, 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": 0.5}, "share is of several heads: set members to 2 or more"),
        ({"rounds": 5}, r"rounds must be no more than steps \(got 5 and 4\)"),
    ],
)
def test_parameters_that_cannot_be_are_refused(changes: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=words):
        config(folder, **changes)


EVERYTHING = {
    "members": 2,
    "share": 0.7,
    "rounds": 3,
    "steps": 6,
    "pairs": [Files(), SelfPlay(samples=2, max_new_tokens=6)],
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all that has a state"])
def test_stopped_after_every_step_it_ends_in_the_same_bytes(
    changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    given = config(folder, **changes)
    whole, wanted, _ = trained(tmp_path / "whole", given)
    said: list[dict[str, float]] = []
    (tmp_path / "scratch").mkdir()
    for _ in range(given.steps):
        log = Interrupted(tmp_path / "scratch")
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", given, log)
        said += log.steps
    _, metrics, _ = trained(tmp_path / "parts", given, Interrupted(tmp_path / "scratch"))
    assert (said, metrics) == (whole.steps, wanted)
    assert digest(tmp_path / "parts/reward") == digest(tmp_path / "whole/reward")


def test_hard_pairs_are_those_that_are_ranked_worst() -> None:
    margin_P = torch.tensor([3.0, -1.0, 0.5, -2.0, 0.5])
    assert hardest(margin_P, 0.4) == [3, 1] and hardest(margin_P, 0.6) == [3, 1, 2] and hardest(margin_P, 0.01) == [3]


def test_each_round_but_the_first_draws_from_what_was_hard_when_it_began() -> None:
    margins = iter([torch.tensor([1.0, -1.0, 0.0]), torch.tensor([-3.0, 1.0, 2.0])])
    rounds = Rounds([4, 7, 9], 3, 0.34, 6, lambda: next(margins))
    assert [rounds.population(step) for step in range(6)] == [[4, 7, 9]] * 2 + [[4, 7, 9, 7]] * 2 + [[4, 7, 9, 4]] * 2
    assert [rounds.round_of(step) for step in range(6)] == [(0, 0), (0, 0), (1, 2), (1, 2), (2, 4), (2, 4)]
    again = Rounds([4, 7, 9], 3, 0.34, 6, lambda: torch.zeros(3))
    again.load(rounds.state())
    assert again.population(5) == [4, 7, 9, 4]
    uneven = Rounds([0], 3, 1.0, 7, lambda: torch.zeros(1))
    firsts = [uneven.round_of(step) for step in range(7)]
    assert all(first == min(step for step in range(7) if firsts[step][0] == number) for number, first in firsts)


def test_rounds_learn_from_what_the_model_itself_ranks_worst(folder: Path, tmp_path: Path) -> None:
    """The second round of two: its steps draw from all pairs and from those of the smallest margins after the first."""
    given = config(folder, steps=4, rounds=2, hard_fraction=0.25, held_out_fraction=0.0, schedule=CONSTANT)
    trained(tmp_path / "whole", given)
    *_, half = trained(tmp_path / "half", config(folder, steps=2, held_out_fraction=0.0, schedule=CONSTANT))
    learning = Learning(given, half, TOKENIZER, read_pairs(tmp_path / "whole/reward"))
    margins = [plain_margins(half, row).mean().item() for row in rows()]
    worst = sorted(range(12), key=margins.__getitem__)[:3]
    population = [*range(12), *worst]
    assert learning.rounds.population(2) == population
    assert learning.chosen_at(2) == [population[place] for place in sample_indices(0, 4, 15, ROUND_APART)]


@pytest.mark.parametrize(
    ("found", "changes", "words"),
    [
        (["{", "3"], {}, r"not one pair to learn from \(no_object 2\)"),
        ([{"prompt": "ask 2", "chosen": "a", "rejected": "b"}], {"held_out_fraction": 0.999}, r"\(1 of held_out_fraction\)"),
    ],
)  # fmt: skip
def test_nothing_to_learn_from_is_said(found: list[Any], changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^reward.pairs: .*{words}$"):
        trained(tmp_path, config(write_rows(tmp_path / "in", found), **changes))
