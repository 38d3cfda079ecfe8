"""How much conversations count: what every confidence must do, and weights worked by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm.averages import Last
from lm.config import Config, methods_of
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.schedules import Wsd
from lm.training.data.conversations import Conversation
from tasks.core.config import ConfigError, Conversations
from tasks.sft import confidences
from tasks.sft.confidences import Certain, Likelihood, Stated
from tasks.sft.confidences import likelihood as module
from tasks.sft.data import Data, read_data
from tasks.sft.sources import Files
from tasks.sft.stage import SftConfig
from tests.lm.models import toy_model, toy_tokenizer

TOKENIZER = toy_tokenizer()
PAD = TOKENIZER.pad_id


def conversations(count: int = 6) -> list[Conversation]:
    found = []
    for n in range(count):
        ids = torch.randint(5, 261, (6 + 3 * n,), generator=torch.Generator().manual_seed(n)).tolist()
        found.append(Conversation(ids[:2], ids[2:], None if n % 2 else [1.0] * 3 + [0.0] + [0.5] * (3 * n)))
    return found


@pytest.mark.parametrize("method", methods_of(confidences), ids=lambda method: method.__name__)
def test_a_confidence_is_a_share_and_of_each_conversation_alone(method: type[Config]) -> None:
    model, given = toy_model(), conversations()
    stated = np.array([0.5, math.nan, 1.0, 0.0, 0.25, math.nan])
    found = method()(given, stated, model, PAD)
    assert found.shape == (6,) and np.all((found >= 0) & (found <= 1))
    turned = method()(given[::-1], stated[::-1], model, PAD)
    np.testing.assert_allclose(turned[::-1], found, rtol=1e-5)  # rows of products lie elsewhere
    assert np.array_equal(method()(given, stated, model, PAD), found)


def log_probability(model: Decoder, c: Conversation) -> Tensor:
    """logp of the tokens that count, one conversation at a time."""
    ids = torch.tensor(c.prompt + c.completion)
    logp = model(ids[None])[0].log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]][len(c.prompt) - 1 :]
    return logp[torch.tensor(c.weights or [1.0] * len(c.completion)) > 0]


@torch.no_grad()
@pytest.mark.parametrize("positions", [8192, 20])
def test_likelihood_is_the_mean_probability_of_what_counts(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", positions)
    model, given = toy_model(), conversations()
    wanted = [log_probability(model, c).double().mean().exp().item() for c in given]
    none = np.full(6, math.nan)
    np.testing.assert_allclose(Likelihood()(given, none, model, PAD), wanted, rtol=1e-5)
    np.testing.assert_allclose(Likelihood(power=2.0)(given, none, model, PAD), np.square(wanted), rtol=1e-5)
    assert model.training and Likelihood()(given, none, None, PAD).tolist() == [1.0] * 6


def test_what_is_stated_counts_and_what_is_not_is_sure() -> None:
    given, stated = conversations(3), np.array([0.5, math.nan, 0.0])
    assert Stated()(given, stated, None, PAD).tolist() == [0.5, 1.0, 0.0]
    assert Certain()(given, stated, None, PAD).tolist() == [1.0] * 3
    with pytest.raises(ConfigError, match="stated, but no conversation has a number in the field `confidence`"):
        Stated()(given, np.full(3, math.nan), None, PAD)
    with pytest.raises(ConfigError, match="2 of 3 conversations have a `confidence` that is not from 0 to 1"):
        Stated()(given, np.array([1.5, -0.1, 1.0]), None, PAD)


def read(folder: Path, rows: dict[str, list[dict[str, Any]]], **changes: Any) -> Data:
    for name, lines in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = SftConfig(
        model="pretrain", seed=0, optimizer=AdamW(), schedule=Wsd(), average=Last(), problems=Arithmetic(), steps=1,
        conversations=Conversations(folder=str(folder)), sources=[Files(path=name) for name in rows], **changes,
    )  # fmt: skip
    return read_data(config, TOKENIZER, 48, 12)


def test_a_confidence_multiplies_the_weights_of_messages(tmp_path: Path) -> None:
    """Labels of a program beside rows that somebody checked, by hand: 'b' and its end count 0.5 x 0.25 in the first row, 1 in
    the third; the second is left out."""
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]
    weak = [{"messages": turn, "confidence": 0.25}, {"prompt": "x", "completion": "y", "confidence": 0}]
    found = read(
        tmp_path, {"weak.jsonl": weak, "sure.jsonl": [{"prompt": "c", "completion": "d"}]}, confidence=Stated()
    )
    assert [c.weights for c in found.conversations] == [[0.125, 0.125], [1.0, 1.0]]
    assert [TOKENIZER.decode(c.completion) for c in found.conversations] == ["b", "d"]
    assert np.bincount(found.picks_P).tolist() == [6, 6]


def test_a_source_that_nobody_is_sure_of_is_named(tmp_path: Path) -> None:
    rows = {
        "a.jsonl": [{"prompt": "x", "completion": "y", "confidence": 0}],
        "b.jsonl": [{"prompt": "c", "completion": "d"}],
    }
    with pytest.raises(ConfigError, match="sft.sources: files: none of its 1 conversations has a confidence above 0"):
        read(tmp_path, rows, confidence=Stated())
