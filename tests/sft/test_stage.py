"""SFT: what it learns from, and that its loss is the mean over the answers' tokens, whatever parts a step is made in."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lm.averages import Last
from lm.checkpoint import load_model, save_model
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.schedules import Wsd
from lm.training.data.conversations import sample_indices
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.sft.stage import SftConfig, run
from tests.lm.models import toy_model, toy_tokenizer
from tests.lm.waits import Device

PROBLEMS = Arithmetic(digits=1, worked_fraction=0.5)
SFT = PROBLEMS.examples("sft")


class Heard(Log):
    """A log that keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def __call__(self, step: int, **values: float) -> None:
        self.losses.append(values["loss"])


def train(
    folder: Path, context: int = 48, **changes: Any
) -> tuple[list[float], dict[str, float], dict[str, torch.Tensor]]:
    """The losses, the metrics and the weights of a run of one step over every demonstration, but for the changes."""
    for name in ("pretrain", "sft"):
        (folder / name).mkdir(parents=True)
    save_model(folder / "pretrain", toy_model(context=context), toy_tokenizer())
    settings = {
        "optimizer": AdamW(lr=1e-3),
        "schedule": Wsd(),
        "average": Last(),
        "problems": PROBLEMS,
        "model": "pretrain",
    }
    log = Heard()
    metrics = run(SftConfig(**{"steps": 1, "batch": len(SFT), "seed": 0, **settings, **changes}), folder, log)
    return log.losses, metrics, load_model(folder / "sft")[0].state_dict()


@torch.no_grad()
def expected_loss() -> float:
    """Mean cross-entropy of the start model over the demonstrations' tokens and their end tokens, one conversation at a
    time."""
    model, tokenizer = toy_model(), toy_tokenizer()
    total = count = 0.0
    for example in SFT:
        prompt, answer = tokenizer.chat(example.prompt), [*tokenizer.encode(example.demonstration), tokenizer.end_id]
        logps = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        total -= sum(logps[len(prompt) + i - 1, token].item() for i, token in enumerate(answer))
        count += len(answer)
    return total / count


@pytest.mark.parametrize("positions", [None, "64"], ids=["whole", "in parts"])
def test_the_loss_is_the_mean_over_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: str | None
) -> None:
    if positions:
        monkeypatch.setenv("TOKENMILL_POSITIONS", positions)
    losses, metrics, _ = train(tmp_path)
    # fp32 sums of some hundred terms, in another order
    assert losses == [pytest.approx(expected_loss(), rel=1e-5)]
    assert metrics == {"steps": 1, "examples": len(SFT), "too_long": 0}


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    losses, *_ = train(tmp_path, steps=30)
    assert losses[-1] < losses[0] - 1  # nats: what knowing the two dozen characters in use is worth at least


def test_the_seed_chooses_the_batches(tmp_path: Path) -> None:
    first, again, other = (
        train(tmp_path / name, batch=2, steps=2, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first[0] == again[0] and all(torch.equal(again[2][name], weight) for name, weight in first[2].items())
    assert first[0] != other[0]


def test_what_fits_the_context_is_kept_and_no_more(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    lengths = [len(tokenizer.chat(e.prompt)) + len(tokenizer.encode(e.demonstration)) + 1 for e in SFT]
    longest = max(lengths)
    for context, kept in ((longest, len(SFT)), (longest - 1, sum(n < longest for n in lengths))):
        _, metrics, _ = train(tmp_path / str(context), context=context)
        assert metrics == {"steps": 1, "examples": kept, "too_long": len(SFT) - kept}


def test_nothing_that_fits_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"sft: none of the {len(SFT)} demonstrations fits the context of 4 tokens"):
        train(tmp_path, context=4)


def test_every_pass_has_every_conversation_once_in_an_order_of_its_own() -> None:
    population, batch = 12, 5
    seen = [i for step in range(math.ceil(2 * population / batch)) for i in sample_indices(step, batch, population, 3)]
    first, second = seen[:population], seen[population : 2 * population]
    assert sorted(first) == sorted(second) == list(range(population)) and first != second
    assert sample_indices(0, batch, population, 3) != sample_indices(0, batch, population, 4)


def test_the_host_waits_for_the_device_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which positions count is known to the host, so the device is not asked."""
    monkeypatch.setenv("TOKENMILL_POSITIONS", "96")
    plain = train(tmp_path / "plain", steps=4, batch=6)
    waits: list[int] = []
    with monkeypatch.context() as patch, (device := Device(patch)):
        patch.setattr(Log, "digests", lambda *said: waits.append(len(device.waits)))
        found = train(tmp_path / "device", steps=4, batch=6)
    assert [after - before for before, after in zip(waits, waits[1:], strict=False)] == [1] * 3
    assert found[0] == plain[0] and all(torch.equal(found[2][name], weight) for name, weight in plain[2].items())
