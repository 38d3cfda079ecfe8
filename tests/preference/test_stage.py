"""The stage on a small model: what it learns from and in which order, against plain formulas; that every parameter of it counts; and
that a run which was stopped ends in the same bytes without paying twice for what is made once."""

from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lm.averages import Last
from lm.checkpoint import load_model, save_model
from lm.config import ConfigError, methods_of
from lm.linears import AdaLoRA, LoRA, VeRA
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.pairs import Files, Mined, SelfPlay
from lm.pairs.query import Query
from lm.pairs.table import read_pairs
from lm.precisions import BitSplit, Coat, Jetfire, MuS
from lm.prompts import Ept, PromptTuning
from lm.schedules import Cosine, Wsd
from lm.training.data import conversations
from lm.training.data.conversations import sample_indices
from lm.training.fast_forward import FastForward
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.preference import losses, prepared
from tasks.preference.losses import Dpo, Kto
from tasks.preference.losses.base import Logps, PreferenceLoss
from tasks.preference.prepared import others
from tasks.preference.stage import Learning, PreferenceConfig, run
from tests.neighbours import assert_all_differ, every_neighbour
from tests.preference.made import TOKENIZER, Parity, rows, write_rows, writer
from tests.project import digest

CONSTANT = Wsd(warmup_fraction=0.0, decay_fraction=0.0)


class Said(Log):
    """Keeps what is said of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def __call__(self, step: int, **values: float) -> None:
        self.steps.append(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs in a file."""
    return write_rows(tmp_path_factory.mktemp("preferences"), rows())


def config(folder: Path, **changes: Any) -> PreferenceConfig:
    given = {
        "model": "sft", "steps": 4, "batch": 4, "held_out_fraction": 0.2, "loss": Dpo(), "pairs": [Files()], "folder": str(folder),
        "optimizer": AdamW(lr=0.003), "schedule": Cosine(), "average": Last(), "seed": 0,
    }  # fmt: skip
    checked = PreferenceConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic"}})
    return checked.model_copy(update={"problems": Parity()})


def trained(data: Path, given: PreferenceConfig, log: Said | None = None) -> tuple[Said, dict[str, float], Decoder]:
    """What was said, the metrics and the model."""
    for name in ("sft", "preference"):
        (data / name).mkdir(parents=True, exist_ok=True)
    save_model(data / "sft", writer(), TOKENIZER)
    log = log or Said()
    metrics = run(given, data, log)
    return log, metrics, load_model(data / "preference")[0]


def weights(data: Path) -> str:
    """Digest of the trained model alone: what the pairs' table has of the start model is no weight."""
    return sha256((data / "preference/model.safetensors").read_bytes()).hexdigest()


@torch.no_grad()
def plain_logp(model: Decoder, prompt: list[int], answer: list[int]) -> float:
    """Sum over an answer's tokens of all logits' log-softmax, one sequence at a time."""
    logps = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
    return sum(logps[len(prompt) + n - 1, token].item() for n, token in enumerate(answer))


def sides(row: dict[str, str]) -> tuple[list[int], list[int], list[int]]:
    """(prompt, chosen, rejected) as ids."""
    chosen, rejected = ([*TOKENIZER.encode(row[side]), TOKENIZER.end_id] for side in ("chosen", "rejected"))
    return TOKENIZER.chat(row["prompt"]), chosen, rejected


def plain_loss(method: PreferenceLoss, model: Decoder, start: Decoder, all_rows: list[Any], places: list[int]) -> float:
    """Mean of the loss over these pairs, with the start model asked anew."""
    columns: list[list[float]] = [[], [], [], [], [], []]
    moved = []
    for place in places:
        prompt, *answers = sides(all_rows[place])
        behind = sides(all_rows[(place + 1) % len(all_rows)])[0]
        for side, answer in enumerate(answers):
            columns[side].append(plain_logp(model, prompt, answer))
            columns[2 + side].append(plain_logp(start, prompt, answer))
            columns[4 + side].append(len(answer))
            moved.append(plain_logp(model, behind, answer) - plain_logp(start, behind, answer))
    point = max(0.0, sum(moved) / len(moved)) if method.needs_point else 0.0
    loss_P, _ = method(Logps(*map(torch.tensor, columns), point=point))
    return loss_P.mean().item()


# With its default weights the point of KTO stays 0 here: what is rejected falls, behind other prompts, too
METHODS = [*(method() for method in methods_of(losses)), Kto(beta=0.5, undesirable_weight=0.01)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("positions", [None, "40"], ids=["whole", "in parts"])
def test_each_step_is_the_loss_beside_the_start_model(
    method: PreferenceLoss, positions: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third one after two updates: its reference has not moved, and chosen is chosen, whatever parts the step is made in."""
    if positions:
        monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    settings = {"loss": method, "schedule": CONSTANT, "held_out_fraction": 0.0}
    log, metrics, _ = trained(tmp_path / "three", config(folder, steps=3, **settings))
    *_, moved = trained(tmp_path / "two", config(folder, steps=2, **settings))
    assert metrics["pairs"] == 12 and "held_out_accuracy" not in metrics
    for step, model in ((0, writer()), (2, moved)):
        expected = plain_loss(method, model, writer(), rows(), sample_indices(step, 4, 12, 0))
        # fp32 sums of some ten terms of about 5, each exact to 6e-8, in another order
        assert log.steps[step]["loss"] == pytest.approx(expected, rel=2e-4, abs=2e-5)
    assert log.steps[2]["loss"] != pytest.approx(log.steps[0]["loss"], rel=1e-3)


def test_the_better_answers_become_likelier_than_the_worse(folder: Path, tmp_path: Path) -> None:
    log, _, model = trained(tmp_path, config(folder, steps=25, batch=12, held_out_fraction=0.0))
    start = writer()
    gains = []
    for row in rows():
        prompt, *answers = sides(row)
        gains.append([plain_logp(model, prompt, a) - plain_logp(start, prompt, a) for a in answers])
    assert all(chosen > rejected + 1 for chosen, rejected in gains)
    assert log.steps[-1]["accuracy"] == 1 and log.steps[-1]["margin"] > 0.5 and log.steps[-1]["loss"] < 0.5
    assert abs(log.steps[0]["margin"]) < 1e-4


def test_what_is_held_out_is_not_learned_from_and_tells_how_others_are_ranked(folder: Path, tmp_path: Path) -> None:
    _, metrics, model = trained(tmp_path, config(folder, steps=3, held_out_fraction=0.4))
    table = pq.read_table(tmp_path / "preference/pairs.parquet")
    held = [row for row in table.to_pylist() if row["held_out"]]
    assert table.num_rows == 12 and 0 < len(held) < 12
    assert (metrics["held_out_pairs"], metrics["pairs"]) == (len(held), 12 - len(held))
    start = writer()
    for name, now in (("held_out_accuracy_before", start), ("held_out_accuracy", model)):
        wins = [
            plain_logp(now, r["prompt_ids"], r["chosen_ids"]) / len(r["chosen_ids"])
            > plain_logp(now, r["prompt_ids"], r["rejected_ids"]) / len(r["rejected_ids"])
            for r in held
        ]
        assert metrics[name] == pytest.approx(sum(wins) / len(wins))
    margins = []
    for row in held:
        gains = [
            plain_logp(model, row["prompt_ids"], row[side]) - plain_logp(start, row["prompt_ids"], row[side])
            for side in ("chosen_ids", "rejected_ids")
        ]
        margins.append(0.1 * (gains[0] - gains[1]))
    assert metrics["held_out_reward_margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
    assert metrics["held_out_reward_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    learning = Learning(config(folder, held_out_fraction=0.4), model, TOKENIZER, read_pairs(tmp_path / "preference"))
    learned = {place for step in range(6) for place in learning.chosen_at(step)}
    assert learned == {place for place, row in enumerate(table.to_pylist()) if not row["held_out"]}


CHANGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": 5}],
    "batch": [{"batch": 3}],
    "held_out_fraction": [{"held_out_fraction": 0.0}],
    "loss": [{"loss": method()} for method in methods_of(losses) if method is not Dpo],
    "pairs": [{"pairs": [source]} for source in (Mined(max_new_tokens=6), SelfPlay(max_new_tokens=6))],
    "query": [{"query": query} for query in (Query(above=0.5), Query(above=0.7), Query(above=0.5, ridge=3.0))],
    "seed": [{"seed": 1}],
    "optimizer": [{"optimizer": AdamW(lr=0.002)}],
    "clip": [{"clip": 0.01}],
    "precision": [{"precision": "bf16"}],
    "stream": [{"precision": "bf16", "stream": "bf16"}],
    "shards": [{"shards": 2}],
    "soft_prompt": [{"soft_prompt": PromptTuning(length=3)}, {"soft_prompt": Ept(length=3)}],
    "linear": [
        {"linear": held}
        for held in (
            LoRA(rank=2),
            LoRA(rank=2, start="pissa"),
            LoRA(rank=2, trained="up"),
            VeRA(rank=4),
            AdaLoRA(rank=1, first_rank=2, cut_until=2),
        )
    ],
    "fast_forward": [{"fast_forward": FastForward(every=1, most=2)}],
}
# As for tests/rl/test_stage.py; folder: what is learned, not how
ELSEWHERE = {
    "schedule",
    "average",
    "compile",
    "deterministic",
    "skip_sigmas",
    "lookahead",
    "recompute",
    "rounding",
    "optimizer_states",
    "stop_factor",
    "problems",
    "model",
    "folder",
}


def test_every_parameter_changes_the_weights(folder: Path, tmp_path: Path) -> None:
    """Of any two settings that differ, the weights do: those here, and of each loss each parameter."""
    assert set(CHANGES) | ELSEWHERE == set(PreferenceConfig.model_fields)
    tries = [[changes] for settings in CHANGES.values() for changes in settings]
    tries += [[{"loss": method} for method in methods] for methods in every_neighbour(methods_of(losses))]
    folders = count()

    def made(changes: dict[str, Any]) -> str:
        data = tmp_path / str(next(folders))
        trained(data, config(folder, **changes))
        return weights(data)

    assert_all_differ(made, tries)


class Interrupted(Said):
    """Asked to stop after every step."""

    stopping = True

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch


@pytest.mark.parametrize("loss", [Dpo(), Kto()], ids=["dpo", "kto"])
def test_stopped_after_every_step_it_ends_in_the_same_bytes_and_asks_the_start_model_once(
    loss: PreferenceLoss, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(folder, loss=loss, pairs=[Files(), SelfPlay(samples=2, max_new_tokens=6)])
    whole, wanted, _ = trained(tmp_path / "whole", given)
    asked: list[int] = []
    made = prepared.collect_pairs

    def gathered(*arguments: Any) -> Any:
        asked.append(1)
        return made(*arguments)

    monkeypatch.setattr(prepared, "collect_pairs", gathered)
    said: list[dict[str, float]] = []
    (tmp_path / "scratch").mkdir()
    for _ in range(given.steps):
        log = Interrupted(tmp_path / "scratch")
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", given, log)
        said += log.steps
    _, metrics, _ = trained(tmp_path / "parts", given, Interrupted(tmp_path / "scratch"))
    assert (said, metrics, asked) == (whole.steps, wanted, [1])
    assert digest(tmp_path / "parts/preference") == digest(tmp_path / "whole/preference")


def test_a_scratch_without_the_pairs_is_one_in_which_nothing_was_made(folder: Path, tmp_path: Path) -> None:
    """A kill while they are written leaves the quarantine alone, or half a file by another name."""
    trained(tmp_path / "whole", config(folder))
    log = Said()
    log.scratch = tmp_path / "scratch"
    log.scratch.mkdir()
    for name in ("quarantine.parquet", ".pairs.parquet.unfinished"):
        (log.scratch / name).write_bytes(b"half")
    trained(tmp_path / "parts", config(folder), log)
    assert digest(tmp_path / "parts/preference") == digest(tmp_path / "whole/preference")


def test_pairs_stay_together_and_the_head_sees_answers_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, config(folder))
    pairs = read_pairs(tmp_path / "preference")
    learning = Learning(config(folder), writer(), TOKENIZER, pairs)
    host = learning.fetch(0)
    batch = learning.batch_of(0, host, host)
    assert (batch.rows, batch.together) == (8, 2)
    given, head = list[int](), conversations.linear_log_probabilities

    def counted(x_KD: Tensor, *rest: Any, **more: Any) -> Tensor:
        given.append(len(x_KD))
        return head(x_KD, *rest, **more)

    monkeypatch.setattr(conversations, "linear_log_probabilities", counted)
    whole, figures = batch.loss(slice(0, 8))
    parts = [batch.loss(rows) for rows in (slice(0, 2), slice(2, 8))]
    answers = sum(len(pairs.ids(side, place)) for place in learning.chosen_at(0) for side in ("chosen", "rejected"))
    assert given[0] == given[1] + given[2] == answers
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole, rtol=1e-5, atol=1e-6)
    for name, figure in figures.items():
        torch.testing.assert_close(sum(more[name] for _, more in parts), figure, rtol=1e-5, atol=1e-6)


def test_padding_does_not_matter(folder: Path, tmp_path: Path) -> None:
    trained(tmp_path, config(folder))
    learning = Learning(config(folder), writer(), TOKENIZER, read_pairs(tmp_path / "preference"))
    host = learning.fetch(0)
    ids, mask, *_ = host
    spoiled = ids.clone()
    for row, last in enumerate(mask.cumsum(1).argmax(1).tolist()):
        spoiled[row, last + 2 :] = 7
    assert not torch.equal(spoiled, ids)
    found = [learning.batch_of(0, (x, *host[1:]), (x, *host[1:])).loss(slice(0, 8))[0] for x in (ids, spoiled)]
    assert torch.equal(found[0], found[1])


def test_what_cannot_be_used_is_counted_and_stands_beside_the_model(tmp_path: Path) -> None:
    long = {"prompt": "p", "chosen": "y" * 60, "rejected": "n"}
    write_rows(tmp_path / "in", [*rows(5), "{", long, {"prompt": "a", "chosen": "b", "rejected": "b"}])
    _, metrics, _ = trained(tmp_path, config(tmp_path / "in", held_out_fraction=0.0))
    assert {name: value for name, value in metrics.items() if name.startswith("quarantined") or name == "pairs"} == {
        "pairs": 5, "quarantined": 3, "quarantined_answers_are_the_same": 1, "quarantined_no_object": 1, "quarantined_too_long": 1,
    }  # fmt: skip
    found = pq.read_table(tmp_path / "preference/quarantine.parquet").to_pylist()
    assert [(row["source"], row["where"], row["reason"]) for row in found] == [
        ("files", "pairs.jsonl:6", "no_object"),
        ("files", "pairs.jsonl:7", "too_long"),
        ("files", "pairs.jsonl:8", "answers_are_the_same"),
    ]
    assert found[1]["excerpt"].startswith("64 tokens, and the context has 48")


def test_what_just_fits_the_context_is_kept(tmp_path: Path) -> None:
    room = 48 - len(TOKENIZER.chat("p")) - 1
    write_rows(tmp_path / "in", [{"prompt": "p", "chosen": "y", "rejected": "n" * n} for n in (room, room + 1)])
    _, metrics, _ = trained(tmp_path, config(tmp_path / "in", held_out_fraction=0.0))
    assert (metrics["pairs"], metrics["quarantined_too_long"]) == (1, 1)


@pytest.mark.parametrize(
    ("found", "changes", "words"),
    [
        (["{", "3"], {}, r"not one pair to learn from \(no_object 2\)"),
        ([{"prompt": "ask 2", "chosen": "a", "rejected": "b"}], {"held_out_fraction": 0.999}, r"\(1 of held_out_fraction\)"),
    ],
)  # fmt: skip
def test_nothing_to_learn_from_is_said(found: list[Any], changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^preference.pairs: .*{words}$"):
        trained(tmp_path, config(write_rows(tmp_path / "in", found), **changes))


def test_an_answer_is_put_behind_the_next_other_prompt() -> None:
    assert others(["a", "a", "b", "c", "a"]) == [2, 2, 3, 4, 2]
    assert others(["a", "b"]) == [1, 0]
    assert others(["a", "a"]) == [0, 1]
    assert others(["b", "a", "a"]) == [1, 0, 0]


def test_the_point_of_a_model_that_has_not_moved_is_zero_and_later_ones_are_said(folder: Path, tmp_path: Path) -> None:
    log, *_ = trained(tmp_path, config(folder, loss=METHODS[-1], steps=6))
    points = [said["point"] for said in log.steps]
    assert points[0] < 1e-4 and min(points) >= 0 and max(points[1:]) > 0.01


def test_scales_that_span_rows_are_refused_beside_every_loss(folder: Path) -> None:
    for rounding in (Coat(), Jetfire(), BitSplit()):
        for loss in METHODS:
            with pytest.raises(
                ValueError, match=f"rounding: {rounding.name} has scales that span rows, .*: set rounding to"
            ):
                config(folder, rounding=rounding, loss=loss)
    assert config(folder, rounding=MuS()).rounding == MuS()
