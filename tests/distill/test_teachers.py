"""Teachers: several at once by hand, those that do not fit, and a student's own past through a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.hugging_face.export import save_hf
from lm.linears import SaRA
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.schedules import AutoLRS
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.distill.answers import Demonstrations
from tasks.distill.contracts import contracts
from tasks.distill.divergences import ForwardKl
from tasks.distill.needs import needs
from tasks.distill.stage import run
from tasks.distill.step import ComparedRows, shares_of
from tasks.distill.students import Fresh, Whole
from tasks.distill.teachers import Ensemble, Past
from tests.distill.test_stage import config, decided, prepared, trained
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import TINY, digest


def test_several_teachers_are_their_mean() -> None:
    """For forward_kl the gradient is that of the arithmetic mean of their softened distributions, as Hinton et al. have it."""
    student, teachers = toy_model(seed=1), [toy_model(seed=2), toy_model(seed=3, layers=1)]
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([1, 4, 12])
    compared = ComparedRows(ids[:, :-1], places, ids[:, 1:].flatten()[places], 3)
    shares_of(student, teachers, ForwardKl(temperature=2.0), 0.0, compared)[0].backward()
    found = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    student.zero_grad()
    logits = [model(ids[:, :-1]).flatten(0, 1)[places] / 2.0 for model in (student, *teachers)]
    mean = torch.stack([F.softmax(each, -1) for each in logits[1:]]).mean(0).detach()
    (4 * (mean * (mean.log() - logits[0].log_softmax(-1))).sum(-1).mean()).backward()
    for name, weight in student.named_parameters():
        # sums over a vocabulary in another order, in fp32
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)
    assert found["embedding.weight"].norm() > 1e-3


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, whose data/teachers the stage reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/teachers").mkdir(parents=True)
    return tmp_path


def saved(folder: Path, model: Decoder) -> None:
    folder.mkdir()
    save_model(folder, model, toy_tokenizer())


def test_an_ensemble_is_all_models_of_its_folder_whatever_their_format(here: Path) -> None:
    (here / "data/teachers/README.md").write_text("not a model")
    plain = trained(here / "alone", config())
    with pytest.raises(ConfigError, match=r"distill.teachers: there is no folder of a model in data/teachers"):
        trained(here / "none", config(teachers=Ensemble()))
    saved(here / "data/teachers/ours", toy_model(seed=9))
    ours = trained(here / "ours", config(teachers=Ensemble()))
    save_hf(toy_model(seed=10), toy_tokenizer(), here / "data/teachers/theirs", torch.float32)
    both = trained(here / "both", config(teachers=Ensemble()))
    assert len({plain, ours, both}) == 3


def test_a_teacher_that_does_not_fit_is_named(here: Path) -> None:
    saved(here / "data/teachers/short", toy_model(seed=9, context=32))
    with pytest.raises(ConfigError, match=r"data/teachers/short reads 32 tokens, the model that is distilled"):
        trained(here / "a", config(teachers=Ensemble()))
    (here / "data/teachers/short/model.safetensors").write_bytes(b"torn")
    (here / "data/teachers/empty").mkdir()
    with pytest.raises(ConfigError, match=r"data/teachers/empty/config.json: no such file"):
        needs(sections({"teachers": {"name": "ensemble"}})).work.step()
    (here / "data/teachers/empty").rmdir()
    (here / "elsewhere").mkdir()
    (here / "data/teachers/big").symlink_to(here / "elsewhere")
    for said in (
        lambda: needs(sections({"teachers": {"name": "ensemble"}})).work.step(),
        lambda: trained(here / "linked", config(teachers=Ensemble())),
    ):
        with pytest.raises(
            ConfigError, match=r"data/teachers/big is a link to a folder, behind which DVC does not look"
        ):
            said()
    (here / "data/teachers/big").unlink()
    with pytest.raises(ConfigError, match=r"distill.teachers: data/teachers/short/model.safetensors: cannot be read"):
        trained(here / "b", config(teachers=Ensemble()))


class Interrupted(Log):
    """Asked to stop after every step."""

    stopping = True

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch


@pytest.mark.parametrize(
    ("every", "more"),
    [(2, {}), (3, {}), (3, {"linear": SaRA(share=0.3, repick=4)})],
    ids=["2", "3", "a buffer that changes"],
)
def test_the_past_is_the_same_after_a_kill(tmp_path: Path, every: int, more: dict[str, Any]) -> None:
    given = config(
        student=Whole(), teachers=Past(every=every), answers=Demonstrations(), steps=8, optimizer=AdamW(lr=0.01), **more
    )
    whole = trained(tmp_path / "whole", given)
    folder = prepared(tmp_path / "killed")
    (tmp_path / "scratch").mkdir()
    log = Interrupted(tmp_path / "scratch")
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, folder, log)
    log.stopping = False
    run(given, folder, log)
    assert digest(folder / "distill") == whole


def test_the_past_does_not_go_with_a_schedule_that_takes_steps_back() -> None:
    """It would be a copy of a student that a trial of a rate has made."""
    with pytest.raises(ValueError, match="teachers: past copies the student, and trials of rates are taken back: set"):
        config(teachers=Past(), schedule=AutoLRS())
    config(teachers=Past())
    config(schedule=AutoLRS())


class Told(Log):
    """Keeps what trunks are told of each step."""

    def trunks(self, recipe: Any, steps: int, models: Any, given: Any, seen: Any) -> None:
        self.seen = [repr(seen(step)) for step in range(steps)]


def test_trunks_are_told_of_every_token_that_is_learned_from(tmp_path: Path) -> None:
    """Demonstrations that say something else are another trunk."""
    told = []
    for place, shown in enumerate(("1", "2")):
        log = Told()
        given = config(answers=Demonstrations())

        class Other(type(given.problems)):  # type: ignore[misc]
            def examples(self, split: Any, said: str = shown) -> Any:
                return [replace(each, demonstration=said) for each in super().examples(split)]

        run(given.model_copy(update={"problems": Other(digits=1)}), prepared(tmp_path / str(place)), log)
        told.append(log.seen)
    assert all(one != other for one, other in zip(*told, strict=True))


def test_the_past_teaches_more_as_the_run_goes_on() -> None:
    """Nearly labels alone at first, half of it the past at the end."""
    assert [Past().label_weight(0.5, step, 4) for step in range(4)] == [0.875, 0.75, 0.625, 0.5]


def test_the_past_is_the_student_as_it_was() -> None:
    taught, student = Past(every=2).open(toy_model(), toy_tokenizer()), toy_model(seed=1)
    first, kept = student.embedding.weight[0, 0].item(), []
    for step in range(4):
        (model,) = taught.models_at(step, student)
        kept.append(round(model.embedding.weight[0, 0].item() - first))
        with torch.no_grad():
            student.embedding.weight += 1
    assert kept == [0, 0, 2, 2]


def sections(changes: dict[str, Any]) -> Sections:
    return Sections({**TINY, "distill": {**TINY["distill"], **changes}})


def test_what_teachers_take_and_what_teaches_nothing(here: Path) -> None:
    def frozen(changes: dict[str, Any]) -> int:
        work = needs(sections(changes)).work
        assert work
        return len(work.step().frozen)

    saved(here / "data/teachers/ours", toy_model(seed=9))
    save_hf(toy_model(seed=10), toy_tokenizer(), here / "data/teachers/theirs", torch.float32)
    assert frozen({}) == 1 and frozen({"teachers": {"name": "ensemble"}}) == 3
    # the past alone is read, and nothing where all of the loss is of labels, whoever writes them
    assert frozen({"student": {"name": "whole"}, "teachers": {"name": "past"}}) == 1
    assert frozen({"labels": 1.0}) == 0 == frozen({"labels": 1.0, "teachers": {"name": "ensemble"}})
    match = {"name": "features", "until": 6}
    work = needs(sections({"labels": 1.0, "teachers": {"name": "ensemble"}, "match": match})).work
    assert work and work.steps == 24 and (len(work.step().frozen), work.step().frozen_part) == (1, 0.25)
    (found,) = contracts(sections({"student": {"name": "whole"}}))
    assert found.where == "params.yaml: distill.student" and "nothing is learned" in found.what
    assert list(contracts(sections({"student": {"name": "whole"}, "labels": 0.5}))) == []


def test_demonstrations_that_are_all_too_long_are_said(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"distill.max_new_tokens: no demonstration has 1 tokens at the most: raise it"
    ):
        trained(tmp_path, config(answers=Demonstrations(), max_new_tokens=1))


def test_a_teacher_with_rows_for_other_tokens_is_named(here: Path) -> None:
    saved(here / "data/teachers/wide", toy_model(seed=9, vocab_size=toy_tokenizer().vocab_size + 8))
    with pytest.raises(
        ConfigError, match=r"data/teachers/wide has rows for 269 tokens, the model that is distilled for 261"
    ):
        trained(here / "a", config(teachers=Ensemble()))


def test_a_student_of_its_own_shape() -> None:
    student = Fresh(layers=1, width=24, heads=2, kv_heads=2, ffn_width=40).build(decided(4), 0)
    assert student.config.width == 24 and student.config.vocab_size == decided(4).config.vocab_size
    other = Fresh(layers=1, width=24, heads=2, kv_heads=2, ffn_width=40).build(decided(4), 1)
    assert not torch.equal(student.embedding.weight, other.embedding.weight)
    with pytest.raises(ConfigError, match=r"distill.student: .*heads must be a multiple of kv_heads"):
        Fresh(heads=3, kv_heads=2).build(decided(4), 0)
