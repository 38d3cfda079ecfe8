"""Stages that learn a prompt in front of every text: what of their models moves, what they are held to, and what is refused before
a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from flows.forecast import forecasts
from flows.forecast.dry_run import DryRunResult, dry_run_step
from flows.forecast.estimate import MACHINES, UTILIZATION, Forecast
from flows.params.compose import compose
from lm import precisions
from lm.averages import Last
from lm.checkpoint import load_model, save_model
from lm.config import ConfigError, methods_of
from lm.optimizers import AdamW
from lm.prompts import Ept, PromptTuning, Without
from lm.prompts.base import put_prompt
from lm.sampler import generate
from lm.schedules import Cosine, Wsd
from lm.training.flops import flops_per_token
from lm.training.prompted import Prompted
from tasks.about.needs import needs_of
from tasks.about.sections import Sections
from tasks.about.training import weights_of
from tasks.about.work import Work
from tasks.core.log import Log
from tasks.distill.contracts import contracts as of_distill
from tasks.distill.stage import DistillConfig, beside_prompt
from tasks.preference.contracts import contracts as of_preference
from tasks.prune.contracts import contracts as of_prune
from tasks.quantize.contracts import contracts as of_quantize
from tasks.quantize.stage import QuantizeConfig
from tasks.quantize.stage import run as quantize
from tasks.rl.contracts import contracts as of_rl
from tasks.rl.losses import Cispo
from tasks.sft.contracts import contracts as of_sft
from tasks.sft.stage import SftConfig, run
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import ROOT
from tests.rl.toys import TOKENIZER, learning, policy
from tests.rl.toys import config as rl_config
from tests.sft.test_stage import PROBLEMS, SFT, train

SOFT = "sft.soft_prompt={name: prompt_tuning, length: 5}"
# Of forecasts: what a rehearsal takes is by the layer, and no figure here turns on how many there are.
SHALLOW = "pretrain.model.layers=2"
ROOM = 2**33  # of memory, so little that a batch goes through in parts


def sections(*changes: str) -> Sections:
    return Sections(compose(ROOT, "laptop", list(changes)))


def said(found: Any) -> str:
    return "\n".join(f"{one.where}: {one.what}" for one in found)


@pytest.mark.parametrize("method", [PromptTuning(length=4), Ept(length=4)], ids=lambda method: method.name)
def test_sft_learns_with_a_prompt_and_leaves_the_model(method: Any, tmp_path: Path) -> None:
    losses, _, weights = train(tmp_path, steps=25, batch=16, soft_prompt=method, optimizer=AdamW(lr=0.1))
    start = toy_model().state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in start.items())
    assert weights.keys() - start.keys() == {"prompt.vectors"} | (
        {"prompt.offsets"} if isinstance(method, Ept) else set()
    )
    assert min(losses[-3:]) < losses[0] - 0.02  # a drawn model that stays has little to be asked for


def test_the_stage_that_follows_goes_on_with_all_of_it_but_a_second_prompt(tmp_path: Path) -> None:
    train(tmp_path / "one", steps=2, soft_prompt=PromptTuning(length=4), optimizer=AdamW(lr=0.1))
    model, tokenizer = load_model(tmp_path / "one" / "sft")
    for name, changes in (("all", {}), ("packed", {"packing": True}), ("again", {"soft_prompt": PromptTuning()})):
        (tmp_path / name / "pretrain").mkdir(parents=True)
        (tmp_path / name / "sft").mkdir()
        save_model(tmp_path / name / "pretrain", model, tokenizer)
        if not changes:
            moved = rerun(tmp_path / name)
            assert not torch.equal(moved["prompt.vectors"], model.prompt.vectors)
            assert not torch.equal(moved["blocks.0.ffn.up.weight"], model.blocks[0].ffn.up.weight)
            continue
        with pytest.raises(
            ConfigError, match="each conversation is to begin with the soft prompt|has one of 4 vectors already"
        ):
            rerun(tmp_path / name, **changes)


def rerun(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights after two steps from the model that is there."""
    given = {
        "optimizer": AdamW(lr=1e-2),
        "schedule": Wsd(),
        "average": Last(),
        "problems": PROBLEMS,
        "model": "pretrain",
        "seed": 0,
    }
    run(SftConfig(**{**given, "steps": 2, "batch": len(SFT), **changes}), folder, Log())
    return load_model(folder / "sft")[0].state_dict()


def test_rows_of_several_conversations_are_refused_as_parameters_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="packing: each conversation is to begin with the soft prompt"):
        train(tmp_path, packing=True, soft_prompt=PromptTuning())


def test_a_critic_that_would_be_frozen_is_refused() -> None:
    with pytest.raises(ValidationError, match="soft_prompt: the critic of gae begins as the policy"):
        rl_config(advantage={"name": "gae"}, soft_prompt=PromptTuning())


@pytest.mark.parametrize("method", methods_of(precisions), ids=lambda method: method.model_fields["name"].default)
def test_a_rounding_that_is_taken_beside_a_prompt_trains_nothing_but_the_prompt(method: Any) -> None:
    """Numbers of its layers' own would be trained for nobody: they go when matrices are dense again."""
    model = toy_model()
    put_prompt(model, PromptTuning(length=3))
    model.reparametrize(method())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    given = {"optimizer": AdamW(), "schedule": Cosine(), "average": Last(), "soft_prompt": PromptTuning()}
    if trained == {"prompt.vectors"}:
        assert Prompted(**given, rounding=method()).learns_prompt
        return
    with pytest.raises(ValidationError, match="soft_prompt: the model stays as it is, and rounding int4 trains"):
        Prompted(**given, rounding=method())


def test_a_policy_with_a_prompt_is_held_to_the_model_without() -> None:
    model, plain = policy(), policy()
    put_prompt(model, PromptTuning(length=3))
    found = learning(rl_config(loss=Cispo(kl=0.1), soft_prompt=PromptTuning(length=3)), model)
    ids = torch.arange(12)[None]
    assert found._reference is not None
    with torch.no_grad():
        assert torch.equal(found._reference(ids), plain(ids)) and not torch.equal(model(ids), plain(ids))


def test_answers_are_written_behind_the_prompt() -> None:
    """The sampler's log-probabilities are those of whole passes, whose prompts are of several lengths."""
    model = policy()
    put_prompt(model, PromptTuning(length=3, start="uniform"))
    texts = [TOKENIZER.chat("x" * n) for n in (1, 9, 20)]
    for text, answer in zip(texts, generate(model.eval(), texts, 6, 1.0, TOKENIZER.end_id, 0, 2), strict=True):
        with torch.no_grad():
            logps = model(torch.tensor([[*text, *answer.ids]]))[0].log_softmax(-1)[len(text) - 1 : -1]
        found = logps.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        torch.testing.assert_close(found, torch.tensor(answer.logps, dtype=torch.float32), rtol=1e-4, atol=1e-4)


def test_the_forecast_knows_what_is_trained() -> None:
    whole, soft, ept = (
        told("sft", *changes)[2] for changes in ([], [SOFT], ["sft.soft_prompt={name: ept, length: 5}"])
    )
    # of a whole model's checkpoint two moments a weight, of a prompt's next to none; the gradients of matrices are not made
    assert soft.state_bytes < 0.4 * whole.state_bytes and soft.state_bytes < ept.state_bytes < 0.45 * whole.state_bytes
    assert 0.6 * whole.flops < soft.flops < 0.9 * whole.flops


@pytest.mark.parametrize("method", [PromptTuning(length=5), PromptTuning(length=5, keep=True), Ept(length=5, places=7)])
def test_the_disk_of_a_prompt_by_what_is_saved_and_by_hand(method: Any, tmp_path: Path) -> None:
    """Of what is saved its numbers, in fp32; of checkpoints the model once, and of what makes the prompt all that is trained."""
    words = (
        f"sft.soft_prompt={method.model_dump(exclude={'seed'})}".replace("'", "")
        .replace("False", "false")
        .replace("True", "true")
    )
    plain, soft = (needs_of("sft", sections("sft.packing=false", *more)) for more in ([], [words]))
    width, weights = sections().shape("sft").width, weights_of(sections().shape("sft"))
    sizes = {}
    for name, put in (("bare", Without()), ("with", method)):
        (tmp_path / name).mkdir()
        model = toy_model()
        put_prompt(model, put)
        model.merge()
        save_model(tmp_path / name, model, toy_tokenizer())
        sizes[name] = sum(
            tensor.nbytes for path in (tmp_path / name).glob("*.safetensors") for tensor in load_file(path).values()
        )
    numbers = (sizes["with"] - sizes["bare"]) / 4 / toy_model().config.width
    assert (
        numbers
        == {(False, 0): 5, (True, 0): 10, (False, 7): 12}[getattr(method, "keep", False), getattr(method, "places", 0)]
    )
    assert soft.output - plain.output == 4 * numbers * width
    made = method.build(torch.zeros(9, width))
    assert soft.scratch == 2 * (4 * weights + 16 * sum(weight.numel() for weight in made.parameters()))


def test_a_stage_that_goes_on_with_a_prompt_is_as_large_on_disk_as_its_model_with_it() -> None:
    behind = "sft.soft_prompt={name: ept, length: 100, places: 7}"
    for stage in ("rl", "preference", "reward"):
        given = ["sft.packing=false", f"{stage}.model=sft", "rl.staleness=1"]
        plain, carrying = (needs_of(stage, sections(*given, *more)) for more in ([], [behind]))
        numbers = (100 + 7) * sections().shape("sft").width
        assert carrying.output - plain.output == 4 * numbers
        assert carrying.scratch - plain.scratch == 2 * (16 + 4 * (stage == "rl")) * numbers


def test_what_a_frozen_model_is_read_with_is_a_third_of_its_flop_and_made_anew_a_half() -> None:
    """rl beside the policy it is held to, and sft whose backward makes the forward anew: seconds by hand, of H200's roof."""
    reached = UTILIZATION["gpu"] * MACHINES["h200"].flops
    for words, again in (([], 0), (["rl.recompute=whole"], 1)):
        given = ["rl.loss={name: cispo, kl: 0.1}", "sft.packing=false", *words]
        soft = ["rl.soft_prompt={name: prompt_tuning, length: 50}", "rl.optimizer={name: adamw}"]
        for more in ([], soft):
            work, found, _ = told("rl", *given, *more)
            step = work.step()
            length, carried = step.batch.length, 50 * bool(more)
            shape = step.model.config
            products = flops_per_token(step.model, 0) / 6
            seen = (length + carried) / length
            mixing = 2 * shape.layers * shape.heads * shape.head_dim
            head = step.model.head_weight.numel()
            forward = (2 * (products - head) + mixing * (length + carried)) * seen + 2 * head
            whole = ((4 if more else 6) * (products - head) + 3 * mixing * (length + carried)) * seen + (
                4 if more else 6
            ) * head
            reference = 2 * products + mixing * length
            seconds = work.steps * step.batch.tokens * (whole + again * forward + reference) / reached
            assert found.seconds - found.sampling_seconds == pytest.approx(seconds, rel=1e-9)


def told(stage: str, *changes: str) -> tuple[Work, Forecast, DryRunResult]:
    """A stage's work, its forecast on an H200 with a part of its memory, and the one rehearsal that this is made of."""
    work = needs_of(stage, sections(SHALLOW, *changes)).work
    assert work
    seen: list[DryRunResult] = []

    def kept(*given: Any) -> DryRunResult:
        seen.append(dry_run_step(*given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forecasts, "dry_run_step", kept)
        found = forecasts.forecast_of(work, replace(MACHINES["h200"], memory=ROOM), 0)
    [once] = seen
    return work, found, once


@pytest.mark.parametrize("stage", ["rl", "preference", "reward", "sft"])
def test_a_stage_behind_one_that_learned_a_prompt_is_forecast_with_it(stage: str) -> None:
    """More positions for as many tokens, parameters that are trained, and where answers are written a longer cache."""
    changes = {
        "sft": ["sft.packing=false", "sft.model=rl", "rl.model=pretrain"],
        "rl": ["sft.packing=false"],
    }.get(stage, ["sft.packing=false", f"{stage}.model=sft"])
    before = "rl" if stage == "sft" else "sft"
    behind = f"{before}.soft_prompt={{name: ept, length: 100, places: 7}}"
    (_, plain, bare), (work, found, carrying) = (told(stage, *changes, *more) for more in ([], [behind]))
    assert found.parameters == plain.parameters + (100 + 7) * work.shape.width
    step = work.step()
    assert carrying.flops == flops_per_token(step.model, step.batch.length) > 1.2 * bare.flops
    assert carrying.positions < bare.positions and carrying.step_bytes > bare.step_bytes
    if step.sampling:
        assert step.sampling[0].model is step.model and carrying.sampling_bytes > bare.sampling_bytes
        assert found.sampling_seconds > plain.sampling_seconds


def test_what_reads_such_a_model_and_has_no_place_for_a_prompt_says_so_first(tmp_path: Path) -> None:
    given = sections(SOFT, "sft.packing=false", "quantize.model=rl", "prune.model=sft", "distill.student={name: whole}")
    assert "quantize.model: the model of rl carries a soft prompt, which quantize has no place for" in said(
        of_quantize(given)
    )
    assert "prune.model: the model of sft carries a soft prompt" in said(of_prune(given))
    assert "distill.student: the teacher carries a soft prompt" in said(of_distill(given))
    matched = sections(SOFT, "distill.match={name: features}")
    assert "distill.match: the teacher's layers see its soft prompt" in said(of_distill(matched))
    again = sections(SOFT, "rl.soft_prompt={name: ept}", "preference.soft_prompt={name: ept}")
    assert "rl.soft_prompt: the model of sft carries a prompt already" in said(of_rl(again))
    assert "preference.soft_prompt: the model of sft carries a prompt already" in said(of_preference(again))
    smear = sections(SOFT, "pretrain.model.embeddings=[{name: smear}]")
    assert "sft.soft_prompt: the model has embeddings of ids" in said(of_sft(smear))
    for contracts in (of_sft, of_rl, of_distill, of_quantize):  # a student has no prompt, and follows
        assert "prompt" not in said(contracts(sections(SOFT)))
    (tmp_path / "data" / "rl").mkdir(parents=True)
    model = toy_model()
    model.set_prompt(PromptTuning(length=2).build(model.embedding.weight))
    save_model(tmp_path / "data" / "rl", model, toy_tokenizer())
    config: QuantizeConfig = given["quantize"]
    with pytest.raises(ValueError, match="carries a soft prompt, which would be lost"):
        quantize(config, tmp_path / "data", None)  # type: ignore[arg-type]


def test_a_teacher_behind_a_prompt_may_have_a_student_without() -> None:
    config: DistillConfig = sections()["distill"]
    assert beside_prompt(config) is None
    assert beside_prompt(sections("distill.student={name: sliced, layers: 2}")["distill"]) is not None
