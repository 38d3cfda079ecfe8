"""Stored targets: what is in the file, by hand and byte for byte, and students that learn from it as from the teacher itself."""

from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lm.checkpoint import load_model, save_model
from lm.config import ConfigError
from lm.distilling.targets import FILE, StoredTargets, TargetWriter, digest_of
from lm.model import Decoder
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.distill import step
from tasks.distill.answers import Demonstrations, Student, Teacher
from tasks.distill.contracts import contracts
from tasks.distill.divergences import ForwardKl, Jsd, ReverseKl, Skewed
from tasks.distill.needs import needs
from tasks.distill.stage import run as distill
from tasks.distill.students import Fresh
from tasks.distill.teachers import Stored as StoredTeachers
from tasks.lessons.contracts import contracts as contracts_of_targets
from tasks.lessons.stage import LessonsConfig, run
from tests.distill.test_run import Heard
from tests.distill.test_stage import config as distill_config
from tests.distill.test_stage import decided, prepared
from tests.distill.test_teachers import Interrupted
from tests.lm.models import toy_tokenizer
from tests.neighbours import assert_all_differ
from tests.project import TINY, digest

K = 8


def config(**changes: Any) -> LessonsConfig:
    given = {
        "model": "rl", "steps": 4, "batch": 6, "corpus_sequences": 2, "max_new_tokens": 6, "answer_temperature": 0.8,
        "top_k": K, "numbers": "float32", "seed": 0,
    }  # fmt: skip
    return LessonsConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic", "digits": 1}})


def teacher() -> Decoder:
    """One whose layers count, so that its students differ from it."""
    model = decided(4)
    with torch.no_grad():
        for weight in model.blocks.parameters():
            weight.mul_(12 if weight.ndim == 2 else 1)
    return model


def stored(data: Path, **changes: Any) -> tuple[Path, dict[str, float]]:
    """The folder with targets in it, and the metrics."""
    prepared(data)
    save_model(data / "rl", teacher(), toy_tokenizer())
    (data / "lessons").mkdir()
    return data, run(config(**changes), data, Log())


def learned(data: Path, **changes: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """What is told of each step, and the student."""
    log = Heard()
    distill(distill_config(**{"divergence": ForwardKl(top_k=K), **changes}), data, log)
    return log.told, load_model(data / "distill")[0].state_dict()


FROM_DISK = {"teachers": StoredTeachers(), "beside": "lessons"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("stored") / "data")[0]


@pytest.mark.parametrize(
    "changes",
    [{"divergence": method(top_k=K)} for method in (ForwardKl, ReverseKl, Jsd, Skewed)]
    + [{"divergence": ForwardKl(top_k=3)}, {"labels": 0.5}, {"corpus_sequences": 2, "student": Fresh(layers=1)}, {"steps": 2}],
    ids=repr,
)  # fmt: skip
def test_a_student_learns_as_from_the_teacher_itself(data: Path, changes: dict[str, Any]) -> None:
    live, its = learned(data, **changes)
    found, weights = learned(data, **FROM_DISK, **changes)
    assert len(live) == len(found) and all(one.keys() == other.keys() for one, other in zip(live, found, strict=True))
    for one, other in zip(live, found, strict=True):
        # the same fp32 numbers, but for the sums of a product in other rows, and what steps make of that
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert found[0]["loss"] == pytest.approx(live[0]["loss"], rel=1e-6)
    assert found[-1]["loss"] > 0.01
    for name, weight in weights.items():
        torch.testing.assert_close(weight, its[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_at_a_temperature_too(tmp_path: Path, temperature: float) -> None:
    data, _ = stored(tmp_path / "data", temperature=temperature, answers="demonstrations")
    changes = {"divergence": ForwardKl(top_k=K, temperature=temperature), "answers": Demonstrations()}
    (live, _), (found, _) = learned(data, **changes), learned(data, **FROM_DISK, **changes)
    for one, other in zip(live, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_in_parts_it_is_the_same_loss(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = learned(data, **FROM_DISK)
    monkeypatch.setenv("TOKENMILL_POSITIONS", "60")
    parts, _ = learned(data, **FROM_DISK)
    assert [each["loss"] for each in parts] == pytest.approx([each["loss"] for each in whole], rel=1e-5)


def test_no_teacher_reads_a_token(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = step.hidden_at

    def watched(model: Decoder, *given: Any) -> Tensor:
        read.append(model.config.layers)
        return plain(model, *given)

    monkeypatch.setattr(step, "hidden_at", watched)
    learned(data, **FROM_DISK)
    assert set(read) == {2}  # the student's layers
    read.clear()
    learned(data)
    assert set(read) == {2, 4}


@torch.no_grad()
def test_what_is_in_the_file_by_hand(data: Path) -> None:
    """Each token's likeliest, one sequence at a time, and the rest of its mass; a row group a step."""
    model, found = teacher(), StoredTargets(data / "lessons")
    assert found.header.top_k == K and found.header.tokenizer == digest_of(toy_tokenizer().to_json())
    assert pq.ParquetFile(data / "lessons" / FILE).num_row_groups == 4
    seen = 0
    for at in range(4):
        rows = found.at(at)
        assert len(rows) == 8 and [row.first for row in rows[6:]] == [1, 1]
        for row in rows:
            p_TV = model(torch.tensor([row.ids[:-1]]))[0, row.first - 1 :].softmax(-1)
            top = p_TV.topk(K)
            assert torch.equal(row.top_TK, top.indices) and len(p_TV) == len(row.ids) - row.first
            torch.testing.assert_close(row.logp_TC[:, :K].exp(), top.values, rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(row.logp_TC[:, K].exp(), 1 - top.values.sum(1), rtol=1e-3, atol=1e-6)
            seen += len(p_TV)
    assert seen > 300


def test_the_figures_and_what_rounding_takes(tmp_path: Path) -> None:
    data, exact = stored(tmp_path / "a")
    other, rounded = stored(tmp_path / "b", numbers="float16")
    rows = [row for at in range(4) for row in StoredTargets(data / "lessons").at(at)]
    rest = torch.cat([row.logp_TC[:, -1].exp() for row in rows])
    assert exact["tokens"] == rounded["tokens"] == len(rest) and exact["rest_share"] == pytest.approx(
        float(rest.mean())
    )
    assert exact["bytes_a_token"] == (data / "lessons" / FILE).stat().st_size / len(rest) > rounded["bytes_a_token"]
    # of 11 bits of a log-probability, and of fp32 itself
    assert exact["rounding_nats"] < 5e-9 < 2e-8 < rounded["rounding_nats"] < 1e-4
    half = [row for at in range(4) for row in StoredTargets(other / "lessons").at(at)]
    for one, two in zip(rows, half, strict=True):
        assert torch.equal(one.top_TK, two.top_TK) and one.ids == two.ids
        torch.testing.assert_close(two.logp_TC.logsumexp(1), torch.zeros(len(two.logp_TC)), rtol=0, atol=1e-6)
    live, _ = learned(data)
    near, _ = learned(other, **FROM_DISK)
    assert [each["loss"] for each in near] == pytest.approx([each["loss"] for each in live], rel=5e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, "was made with steps 4, and 5 is asked for"),
        ({"batch": 5}, "was made with batch 6, and 5"),
        ({"corpus_sequences": 1}, "was made with texts 2, and 1"),
        ({"max_new_tokens": 5}, "was made with max_new_tokens 6, and 5"),
        ({"divergence": ForwardKl(top_k=9)}, "was made with top_k 8, and 9"),
        ({"divergence": ForwardKl(top_k=8, temperature=2.0)}, "was made with temperature 1.0, and 2.0"),
        ({"divergence": ForwardKl()}, r"distill.divergence.top_k: 0 tells all tokens apart"),
        ({"answers": Demonstrations()}, "was made with answers 'teacher', and 'demonstrations'"),
        ({"answers": Teacher()}, "was made with answer_temperature 0.8, and 1.0"),
        ({"answers": Student()}, r"distill.answers: what the student writes has no stored targets"),
        ({"seed": 1}, r"data/lessons: problem 0 of step 0 is not the one that is asked: make the targets anew"),
    ],
    ids=repr,
)
def test_what_targets_are_not_is_one_line(data: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as found:
        learned(data, **FROM_DISK, **changes)
    assert "\n" not in str(found.value)


def test_another_text_is_said(tmp_path: Path) -> None:
    data, _ = stored(tmp_path / "data")
    plan = pq.read_table(data / "curriculum/plan.parquet")
    place = plan.column_names.index("offset")
    moved = [offset + (at == 5) for at, offset in enumerate(plan["offset"].to_pylist())]
    pq.write_table(plan.set_column(place, "offset", [moved]), data / "curriculum/plan.parquet")
    with pytest.raises(ConfigError, match=r"data/lessons: the text of step 1 is not the plan's"):
        learned(data, **FROM_DISK)


def test_a_file_that_is_torn_or_of_something_else_is_named(tmp_path: Path) -> None:
    data, _ = stored(tmp_path / "data")
    path = data / "lessons" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"lessons/targets.parquet: cannot be read"):
        learned(data, **FROM_DISK)
    path.write_bytes((data / "curriculum/plan.parquet").read_bytes())
    with pytest.raises(ConfigError, match=r"targets.parquet: holds no targets: steps: Field required"):
        learned(data, **FROM_DISK)
    path.write_bytes(whole)
    header = StoredTargets(data / "lessons").header
    with TargetWriter(data / "lessons", header) as writing:
        writing.add([])
    with pytest.raises(ConfigError, match=r"targets.parquet: has 1 steps of 4: make it anew"):
        learned(data, **FROM_DISK)
    path.unlink()
    with pytest.raises(ConfigError, match=r"targets.parquet: cannot be read"):
        learned(data, **FROM_DISK)


def test_as_many_likeliest_as_there_are_tokens_are_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lessons.top_k: 261 is no fewer than the model's 261 tokens; lower it"):
        stored(tmp_path / "a", top_k=261)
    with pytest.raises(ConfigError, match=r"lessons.max_new_tokens: no demonstration has 1 tokens at the most"):
        stored(tmp_path / "b", answers="demonstrations", max_new_tokens=1)


def test_a_student_of_stored_targets_is_the_same_after_a_kill(data: Path, tmp_path: Path) -> None:
    given = distill_config(divergence=ForwardKl(top_k=K), **FROM_DISK)
    learned(data, **FROM_DISK)
    whole = digest(data / "distill")
    (data / "distill/model.safetensors").unlink()
    log = Interrupted(tmp_path)
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            distill(given, data, log)
    log.stopping = False
    distill(given, data, log)
    assert digest(data / "distill") == whole


CHANGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": 3}],
    "batch": [{"batch": 5}],
    "corpus_sequences": [{"corpus_sequences": 0}],
    "max_new_tokens": [{"max_new_tokens": 5}],
    "answers": [{"answers": "demonstrations"}],
    "answer_temperature": [{"answer_temperature": 0.0}],
    "temperature": [{"temperature": 2.0}],
    "top_k": [{"top_k": 4}],
    "numbers": [{"numbers": "float16"}],
    "precision": [{"precision": "bf16"}],
    "seed": [{"seed": 1}],
}


def test_every_parameter_changes_the_file_and_nothing_else_does(tmp_path: Path) -> None:
    assert set(CHANGES) | {"model", "problems"} == set(LessonsConfig.model_fields)
    folders = count()

    def made(changes: dict[str, Any]) -> str:
        return digest(stored(tmp_path / str(next(folders)), **changes)[0] / "lessons")

    assert made({}) == made({})
    assert_all_differ(made, [[changes] for settings in CHANGES.values() for changes in settings])


def sections(**changes: dict[str, Any]) -> Sections:
    return Sections({**TINY, **{name: {**TINY[name], **more} for name, more in changes.items()}})


def test_what_does_not_hold_is_said_before_anything_runs() -> None:
    asked = {"teachers": {"name": "stored"}, "beside": "lessons"}
    own = {name: TINY["distill"][name] for name in ("steps", "batch", "corpus_sequences", "max_new_tokens")}
    alike = {**own, "top_k": 4}
    divergence = {"name": "forward_kl", "top_k": 4}
    fitting = sections(distill={**asked, "divergence": divergence}, lessons=alike)
    assert list(contracts(fitting)) == [] and list(contracts_of_targets(fitting)) == []
    (found,) = contracts(sections(distill={**asked, "divergence": divergence}, lessons={**alike, "steps": 1}))
    assert found.where == "params.yaml: lessons.steps" and "1, and distill asks for" in found.what
    (found,) = contracts(sections(distill=asked, lessons=alike))
    assert found.where == "params.yaml: distill.divergence.top_k"
    (found,) = contracts_of_targets(sections(lessons={**alike, "top_k": 100_000}))
    assert found.where == "params.yaml: lessons.top_k"
    work = needs(fitting).work
    assert work and work.step().frozen == () == work.step().sampling
