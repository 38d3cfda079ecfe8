"""The stage on a small model: which layers the student begins with, and that every parameter of it counts."""

import hashlib
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.forecast.dry_run import dry_run_step
from flows.forecast.estimate import Machine, forecast
from flows.forecast.forecasts import step_of, works_of
from lm.averages import Last
from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from lm.distilling import batches
from lm.linears import AdaLoRA, LoRA, VeRA
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.sampler import Completion
from lm.schedules import Cosine
from lm.training.fast_forward import FastForward
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.distill import divergences
from tasks.distill.answers import Demonstrations, Student, Teacher
from tasks.distill.divergences import ForwardKl
from tasks.distill.matches import Features, Holistic
from tasks.distill.needs import needs
from tasks.distill.stage import DistillConfig, run
from tasks.distill.students import Fresh, Layers, Sliced, Whole
from tasks.distill.teachers import Past
from tests.lm.models import toy_model, toy_tokenizer
from tests.neighbours import assert_all_differ, every_neighbour
from tests.project import TINY, digest


def decided(layers: int) -> Decoder:
    """A teacher far from uniform."""
    model = toy_model(seed=4, layers=layers)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    return model


@pytest.mark.parametrize(
    ("teacher", "layers"), [(6, [0]), (6, [0, 5]), (6, [0, 2, 5]), (7, [0, 3, 6]), (7, [0, 2, 4, 6]), (3, [0, 2])]
)
def test_a_student_begins_with_evenly_spaced_layers(teacher: int, layers: list[int]) -> None:
    big = decided(teacher)
    student = Layers(layers=len(layers)).build(big, 0)
    assert student.config == big.config.model_copy(update={"layers": len(layers)})
    theirs = big.state_dict()
    for name, weight in student.state_dict().items():
        if name.startswith("blocks."):
            _, mine, rest = name.split(".", 2)
            name = f"blocks.{layers[int(mine)]}.{rest}"
        assert torch.equal(weight, theirs[name]), name
    student.embedding.weight.data.zero_()
    assert big.embedding.weight.any()


def test_a_student_is_smaller_than_its_teacher() -> None:
    with pytest.raises(ConfigError, match=r"distill.student.layers: 3 is no fewer than the teacher's 3"):
        Layers(layers=3).build(decided(3), 0)


def config(**changes: Any) -> DistillConfig:
    given = {
        "model": "rl", "student": Layers(layers=2), "steps": 4, "batch": 6, "corpus_sequences": 2, "max_new_tokens": 6,
        "answers": Teacher(temperature=0.8),
        "divergence": ForwardKl(), "optimizer": AdamW(lr=0.003), "schedule": Cosine(), "average": Last(), "seed": 0,
    }  # fmt: skip
    return DistillConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic", "digits": 1}})


def prepared(data: Path) -> Path:
    """The folder with all that the stage reads."""
    for folder in ("rl", "distill", "curriculum", "tokenize"):
        (data / folder).mkdir(parents=True)
    save_model(data / "rl", decided(4), toy_tokenizer())
    toy_tokenizer().save(data / "tokenize")
    np.save(data / "tokenize/tokens.npy", np.random.default_rng(0).integers(5, 261, 400).astype(np.uint16))
    pq.write_table(pa.table({"start": [0], "length": [400]}), data / "tokenize/documents.parquet")
    rows = range(16)
    plan = {"step": [row // 4 for row in rows], "sequence": [row % 4 for row in rows], "document": [0 for _ in rows]}
    pq.write_table(
        pa.table(plan | {"offset": [20 * row for row in rows], "length": [40 for _ in rows]}),
        data / "curriculum/plan.parquet",
    )
    return data


def trained(data: Path, given: DistillConfig) -> str:
    """Digest of the student."""
    run(given, prepared(data), Log())
    return digest(data / "distill")


SLOW = AdamW(lr=0.0002)
CHANGES: dict[str, list[dict[str, Any]]] = {
    "student": [
        {"student": student}
        for student in (
            Layers(layers=1),
            Layers(layers=3),
            Fresh(),
            Fresh(layers=0),
            Fresh(width=24, heads=2),
            Fresh(ffn_width=40),
            Sliced(layers=3, heads=2),
            Sliced(layers=3, ffn_width=24),
            *(Sliced(layers=3, width=24, by=by) for by in ("activation", "magnitude", "evenly")),
        )
    ],
    "teachers": [
        {"student": Whole(), "answers": Demonstrations(), "teachers": Past(every=every), "optimizer": AdamW(lr=0.01)}
        for every in (2, 3)
    ],
    "steps": [{"steps": 5}],
    "batch": [{"batch": 7}],
    "corpus_sequences": [{"corpus_sequences": 0}, {"corpus_sequences": 3}],
    "max_new_tokens": [{"max_new_tokens": 5}],
    "answers": [
        {"answers": answers}
        for answers in (
            Teacher(temperature=0.0),
            Teacher(),
            Student(),
            Student(share=0.5),
            Student(temperature=0.5),
            Demonstrations(),
        )
    ],
    "match": [
        {"match": match}
        for match in (
            Features(),
            Features(weight=0.5),
            Features(distance="cosine"),
            Features(until=2),
            Features(until=3, fade=True),
            Features(until=2, alone=True),
            Features(student_depth=1.0),
            Features(teacher_depth=1.0),
            Holistic(),
            Holistic(attention=3.0),
        )
    ],
    "labels": [{"labels": 0.5}, {"labels": 1.0}],
    "divergence": [{"divergence": method()} for method in methods_of(divergences) if method is not ForwardKl],
    "seed": [{"seed": 1}],
    "optimizer": [{"optimizer": AdamW(lr=0.002)}],
    "clip": [{"clip": 0.001}],
    "precision": [{"precision": "bf16"}],
    "stream": [{"precision": "bf16", "stream": "bf16"}],
    "shards": [{"shards": 2}],
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
    # at a rate that the loss of the next batch falls with
    "fast_forward": [{"optimizer": SLOW}, {"optimizer": SLOW, "fast_forward": FastForward(every=1, most=2)}],
}
# As for tests/rl/test_stage.py
ELSEWHERE = {
    "schedule",
    "average",
    "compile",
    "deterministic",
    "skip_sigmas",
    "stop_factor",
    "problems",
    "model",
    "beside",
    "learner",
    "lookahead",
    "recompute",
    "rounding",
    "optimizer_states",
}


@pytest.fixture
def written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same weights answer to the same prompts in the same way is written once, which takes half of what a run does. An
    answer that was kept wrongly would make runs alike, and not different ones."""
    plain, kept = batches.generate, dict[str, list[Completion]]()

    def generate(model: Decoder, *given: Any) -> list[Completion]:
        named = [hashlib.sha256(weight.numpy().tobytes()).digest() for weight in model.state_dict().values()]
        how = (named, given, model.low_stream, torch.is_autocast_enabled("cpu"))
        if (key := repr(how)) not in kept:
            kept[key] = plain(model, *given)
        return kept[key]

    monkeypatch.setattr(batches, "generate", generate)


def test_every_parameter_changes_the_student(
    tmp_path: Path, written_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any two settings that differ, the weights do."""
    monkeypatch.setenv("TOKENMILL_POSITIONS", "1000")  # more than there are; to find that out takes two backward passes
    assert set(CHANGES) | ELSEWHERE == set(DistillConfig.model_fields)
    tries = [[changes] for settings in CHANGES.values() for changes in settings]
    tries += [[{"divergence": method} for method in methods] for methods in every_neighbour(methods_of(divergences))]
    folders = count()
    assert_all_differ(lambda changes: trained(tmp_path / str(next(folders)), config(**changes)), tries)


@pytest.mark.parametrize(
    "answers", [Teacher(), Demonstrations(), Student(), Student(share=0.5)], ids=["teacher", "shown", "student", "half"]
)
def test_the_forecast_has_those_write_who_write_in_the_stage(
    answers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model, its rows and the most tokens of an answer, in as many steps; a coin of a half falls otherwise in some."""
    wrote: list[tuple[bool, int, int]] = []

    def spied(model: Decoder, prompts: Any, longest: int, temperature: float, end_id: int, seed: int, rows: int) -> Any:
        wrote.append((model.config.layers == 2, rows, longest))
        return written(model, prompts, longest, temperature, end_id, seed, rows)

    written = batches.generate
    monkeypatch.setattr(batches, "generate", spied)
    given = config(answers=answers, steps=12)
    run(given, prepared(tmp_path), Log())
    section = {**given.model_dump(exclude={"problems", "seed"}), "student": {"name": "layers", "layers": 1}}
    work = needs(Sections({**TINY, "distill": section})).work
    assert work
    step = work.step()
    told = {(each.model is step.model, each.rows, each.new_tokens): given.steps / each.steps for each in step.sampling}
    assert told.keys() == set(wrote)
    assert all(wrote.count(who) == pytest.approx(steps, abs=3) for who, steps in told.items())
    assert sum(told.values()) == pytest.approx(len(wrote)) and all(each.answers == 6 for each in step.sampling)


def test_answers_by_a_smaller_student_take_its_time_and_memory() -> None:
    found = []
    for answers in ({"name": "teacher"}, {"name": "student"}, {"name": "student", "share": 0.25}):
        changes = {"answers": answers, "corpus_sequences": 0, "max_new_tokens": 40}
        work = works_of({**TINY, "distill": {**TINY["distill"], **changes}}, ["distill"])["distill"]
        with_memory = dry_run_step(work.step, work.recipe, work.steps, 10**9, False)
        machine = Machine("small", False, 10**9, 1e12, 1e7)  # a token takes what is read for it
        found.append((forecast(step_of(work), work.steps, work.tokens, with_memory, 0.0, machine, 1e9), with_memory))
    (teacher, held), (student, less), (mixed, most) = found
    assert student.sampling_seconds < teacher.sampling_seconds and less.sampling_bytes < held.sampling_bytes
    assert mixed.sampling_seconds == pytest.approx(0.25 * student.sampling_seconds + 0.75 * teacher.sampling_seconds)
    assert most.sampling_bytes == pytest.approx(held.sampling_bytes, rel=0.01)
