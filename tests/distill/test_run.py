"""Distillation: what the student is compared on, and that its loss is the mean over it, whatever parts a step is made in."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from kernels.linear_divergence import linear_divergence
from lm.averages import Last
from lm.checkpoint import load_model, save_model
from lm.distilling import batches
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.sampler import Completion, generate
from lm.schedules import Wsd
from tasks.core.log import Log
from tasks.distill import step
from tasks.distill.answers import Demonstrations, Student, Teacher
from tasks.distill.divergences import ForwardKl, ReverseKl
from tasks.distill.stage import DistillConfig, run
from tasks.distill.students import Layers
from tests.lm.models import toy_model, toy_tokenizer

PROBLEMS = Arithmetic(digits=1)
PROMPTS = [toy_tokenizer().chat(e.prompt) for split in ("sft", "rl") for e in PROBLEMS.examples(split)]
NEW, TEXT = 6, 4


class Heard(Log):
    """A log that keeps what is told of each step."""

    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []

    def __call__(self, step: int, **values: float) -> None:
        self.told.append(values)


def teacher() -> Any:
    """Layers that differ enough for a student of two of them to say something else."""
    model = toy_model(layers=3, context=40)
    with torch.no_grad():
        for weight in model.blocks.parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    return model


def train(folder: Path, **changes: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """What is told of each step and the student's weights: one step on the greedy answers to every problem, but for the changes."""
    for name in ("rl", "distill", "curriculum", "tokenize"):
        (folder / name).mkdir(parents=True)
    save_model(folder / "rl", teacher(), toy_tokenizer())
    toy_tokenizer().save(folder / "tokenize")
    np.save(folder / "tokenize/tokens.npy", np.random.default_rng(0).integers(5, 261, 400).astype(np.uint16))
    pq.write_table(pa.table({"start": [0], "length": [400]}), folder / "tokenize/documents.parquet")
    plan = {"step": [0] * TEXT, "sequence": list(range(TEXT)), "document": [0] * TEXT, "offset": [0, 40, 80, 120]}
    pq.write_table(pa.table(plan | {"length": [40] * TEXT}), folder / "curriculum/plan.parquet")
    settings = {
        "optimizer": AdamW(lr=1e-3), "schedule": Wsd(), "average": Last(), "problems": PROBLEMS, "divergence": ForwardKl(),
        "model": "rl", "student": Layers(layers=2), "steps": 1, "batch": len(PROMPTS), "max_new_tokens": NEW, "answers": Teacher(temperature=0.0), "seed": 0,
    }  # fmt: skip
    log = Heard()
    run(DistillConfig(**{**settings, "corpus_sequences": TEXT, **changes}), folder, log)
    return log.told, load_model(folder / "distill")[0].state_dict()


@torch.no_grad()
def kl_of(student: Any, teacher: Any, ids: list[int], first: int) -> list[float]:
    """KL(teacher || student) of each prediction of a sequence from the `first` token on, in nats."""
    s, t = (model(torch.tensor([ids[:-1]]))[0, first - 1 :].log_softmax(-1) for model in (student, teacher))
    return (t.exp() * (t - s)).sum(-1).tolist()


@torch.no_grad()
def expected() -> tuple[list[float], list[float]]:
    """KL of each token of the teacher's greedy answers, one prompt and one token at a time; and of the text."""
    model, end = teacher(), toy_tokenizer().end_id
    student = Layers(layers=2).build(model, 0)
    answers: list[float] = []
    for prompt in PROMPTS:
        ids = list(prompt)
        while len(ids) < len(prompt) + NEW and (len(ids) == len(prompt) or ids[-1] != end):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        answers += kl_of(student, model, ids, len(prompt))
    tokens = np.random.default_rng(0).integers(5, 261, 400).tolist()
    return answers, [kl for at in (0, 40, 80, 120) for kl in kl_of(student, model, tokens[at : at + 40], 1)]


@pytest.mark.parametrize("positions", [None, "160"], ids=["whole", "in parts"])
def test_the_loss_is_the_mean_over_answers_and_over_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: str | None
) -> None:
    if positions:
        monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    (told,), _ = train(tmp_path)
    answers, text = (float(np.mean(each)) for each in expected())
    # fp32 over some hundred sums in another order
    assert told["answer_divergence"] == pytest.approx(answers, rel=1e-4)
    assert told["text_divergence"] == pytest.approx(text, rel=1e-4)
    assert told["loss"] == pytest.approx(answers + text, rel=1e-4) and answers > 0.001 < text


def test_the_heads_get_the_positions_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of answers and those of text, a call each; neither prompts nor padding."""
    given: list[tuple[int, int]] = []

    def counted(x: Tensor, weight: Tensor, theirs: Tensor, *rest: Any) -> Tensor:
        given.append((len(x), len(theirs)))
        return linear_divergence(x, weight, theirs, *rest)

    monkeypatch.setattr(step, "linear_divergence", counted)
    train(tmp_path)
    assert all(mine == theirs for mine, theirs in given)
    # the calls before measure what a row or two would keep
    assert [mine for mine, _ in given[-2:]] == [len(each) for each in expected()]


def test_the_seed_chooses_problems_and_answers(tmp_path: Path) -> None:
    some = {"batch": 3, "answers": Teacher(), "steps": 2}
    first, again, other = (train(tmp_path / name, seed=seed, **some) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first[0] == again[0] and all(torch.equal(again[1][name], weight) for name, weight in first[1].items())
    assert first[0] != other[0]


def test_every_seed_and_step_draws_answers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses would not tell: another order of the problems gives each of them other draws too."""
    drawn: list[int] = []

    def watched(*given: Any) -> list[Completion]:
        drawn.append(given[5])
        return generate(*given)

    monkeypatch.setattr(batches, "generate", watched)
    for seed in (0, 1):
        train(tmp_path / str(seed), seed=seed, answers=Teacher(), steps=2)
    assert len(drawn) == len(set(drawn)) == 4


def test_the_student_comes_nearer(tmp_path: Path) -> None:
    told, _ = train(tmp_path, steps=12, batch=4)
    assert told[-1]["text_divergence"] < 0.8 * told[0]["text_divergence"]


@torch.no_grad()
def nll_of(model: Any, ids: list[int], first: int) -> list[float]:
    """-log p (nats) of each token of a sequence from the `first` on."""
    logp = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return [-logp[place - 1, ids[place]].item() for place in range(first, len(ids))]


def student() -> Any:
    return Layers(layers=2).build(teacher(), 0)


def demonstrations() -> list[tuple[list[int], list[int]]]:
    """Prompt and demonstration of each problem that has room for it."""
    tokenizer = toy_tokenizer()
    every = [e for split in ("sft", "rl") for e in PROBLEMS.examples(split)]
    pairs = [(tokenizer.chat(e.prompt), [*tokenizer.encode(e.demonstration), tokenizer.end_id]) for e in every]
    return [(prompt, shown) for prompt, shown in pairs if len(shown) <= NEW]


def test_labels_are_the_tokens_that_are_there(tmp_path: Path) -> None:
    """Half of the loss is their negative log-likelihood, of answers and of text; the other half the divergence."""
    shown = demonstrations()
    (told,), _ = train(tmp_path, labels=0.5, answers=Demonstrations(), batch=len(shown))
    model, big = student(), teacher()
    answers = [x for prompt, ids in shown for x in nll_of(model, prompt + ids, len(prompt))]
    apart = [x for prompt, ids in shown for x in kl_of(model, big, prompt + ids, len(prompt))]
    tokens = np.random.default_rng(0).integers(5, 261, 400).tolist()
    text = [x for at in (0, 40, 80, 120) for x in nll_of(model, tokens[at : at + 40], 1)]
    assert told["answer_nll"] == pytest.approx(float(np.mean(answers)), rel=1e-4)
    assert told["answer_divergence"] == pytest.approx(float(np.mean(apart)), rel=1e-4)
    assert told["text_nll"] == pytest.approx(float(np.mean(text)), rel=1e-4)
    parts = (told[f"{of}_{part}"] for of in ("answer", "text") for part in ("nll", "divergence"))
    assert told["loss"] == pytest.approx(0.5 * sum(parts), rel=1e-5)


def test_labels_alone_read_no_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*given: Any) -> Tensor:
        raise AssertionError("a teacher's head was read")

    monkeypatch.setattr(step, "linear_divergence", nothing)
    (told,), _ = train(tmp_path, labels=1.0)
    assert "answer_divergence" not in told and told["loss"] == pytest.approx(told["answer_nll"] + told["text_nll"])


def test_the_student_writes_as_often_as_its_share_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote: list[int] = []

    def watched(model: Any, *given: Any) -> list[Completion]:
        wrote.append(model.config.layers)
        return generate(model, *given)

    monkeypatch.setattr(batches, "generate", watched)
    train(tmp_path / "all", answers=Student(), steps=6, batch=2)
    assert wrote == [2] * 6
    wrote.clear()
    train(tmp_path / "half", answers=Student(share=0.5), steps=40, batch=1, corpus_sequences=0)
    assert 10 <= wrote.count(2) <= 30 and set(wrote) == {2, 3}


def test_on_policy_the_student_is_compared_on_its_own_answers(tmp_path: Path) -> None:
    """By hand: its greedy answers, one prompt at a time; the reverse divergence."""
    (told,), _ = train(tmp_path, answers=Student(temperature=0.0), divergence=ReverseKl())
    model, big, end = student(), teacher(), toy_tokenizer().end_id
    found: list[float] = []
    with torch.no_grad():
        for prompt in PROMPTS:
            ids = list(prompt)
            while len(ids) < len(prompt) + NEW and (len(ids) == len(prompt) or ids[-1] != end):
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            s, t = (each(torch.tensor([ids[:-1]]))[0, len(prompt) - 1 :].log_softmax(-1) for each in (model, big))
            found += (s.exp() * (s - t)).sum(-1).tolist()
    assert told["answer_divergence"] == pytest.approx(float(np.mean(found)), rel=1e-4)
