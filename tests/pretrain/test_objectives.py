"""Objectives: what every one of a causal model must do, and next-token loss beside a sum by hand. Of masked ones
test_masked_diffusion.py has the same."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm.config import Config, methods_of
from tasks.pretrain import objectives
from tasks.pretrain.objectives import NextToken, Salt
from tasks.pretrain.objectives.salt import SaltLoss

CAUSAL = [method for method in methods_of(objectives) if method.causal]
EVERY = pytest.mark.parametrize("method", CAUSAL, ids=lambda method: method.__name__)


class Further(nn.Module):
    """In the place of the heads that an objective brings: three tables of the current token."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(vocab_size, vocab_size) for _ in range(3))
        for table in self.tables:
            nn.init.zeros_(table.weight)

    def forward(self, model: "Bigram", ids_BT: Tensor, bounds: Tensor | None) -> list[Tensor]:
        return [model.hidden(ids_BT, bounds), *(table(ids_BT) for table in self.tables)]


class Bigram(nn.Module):
    """logits_BTV looked up by the current token, so the head is the identity; it keeps what it was given."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0)))

        self.head_weight = torch.eye(vocab_size)
        self.heads = Further(vocab_size)
        self.config = SimpleNamespace(logit_softcap=None)

    def hidden(self, ids_BT: Tensor, bounds: Tensor | None) -> Tensor:
        self.seen, self.bounds = ids_BT, bounds
        return self.table(ids_BT)


def made(method: type[Config]) -> Any:
    """What computes the loss of the method; of one that is taught, by a model that finds 1 likely behind 0, 2 behind 1 and so on."""
    if method is not Salt:
        return method()
    small = Bigram(3)
    with torch.no_grad():
        small.table.weight.copy_(20 * torch.eye(3).roll(1, 1))
    return SaltLoss(Salt(until=1.0), small)


TOKENS = torch.tensor([[1, 2, 0, 2], [0, 0, 1, 1]])


def mean(method: Any, model: nn.Module, tokens: Tensor) -> tuple[Tensor, dict]:
    """Loss and metrics over all predictions."""
    return method(model, tokens, None, tokens[:, 1:].numel())


@EVERY
def test_learns_a_repeated_sequence(method: type[Config]) -> None:
    model, tokens = Bigram(3), torch.tensor([[0, 1, 2, 0, 1, 2, 0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    first = mean(made(method), model, tokens)[0].item()
    for _ in range(50):
        optimizer.zero_grad()
        loss, _ = mean(made(method), model, tokens)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


@EVERY
def test_the_last_token_is_predicted_but_never_seen(method: type[Config]) -> None:
    model = Bigram(3)
    loss, _ = mean(made(method), model, TOKENS)
    assert torch.equal(model.seen, TOKENS[:, :-1])
    changed = TOKENS.clone()
    changed[0, -1] = 1
    assert mean(made(method), model, changed)[0] != loss


@EVERY
def test_parts_of_a_batch_add_up_and_documents_reach_the_model(method: type[Config]) -> None:
    model, bounds = Bigram(3), torch.tensor([0, 3])
    whole, _ = made(method)(model, TOKENS, torch.tensor([0, 3, 6]), 6)
    parts = [made(method)(model, TOKENS[row : row + 1], bounds, 6)[0] for row in range(2)]
    torch.testing.assert_close(sum(parts), whole)
    assert model.bounds is bounds


COUNTED = torch.tensor([[True, False, True], [False, True, False]])


@EVERY
def test_what_does_not_count_is_not_learned(method: type[Config]) -> None:
    """The last tokens are targets alone: that of the first row counts, that of the second does not."""
    model, losses = Bigram(3), []
    for row in (None, 0, 1):
        tokens = TOKENS.clone()
        if row is not None:
            tokens[row, -1] = 0
        losses.append(made(method)(model, tokens, None, int(COUNTED.sum()), COUNTED)[0].item())
    assert losses[0] != losses[1] and losses[0] == losses[2]


def test_is_the_mean_over_what_counts() -> None:
    model = Bigram(3)
    logp = model.table.weight.log_softmax(-1)
    some = [-logp[row[t], row[t + 1]] for row, mask in zip(TOKENS, COUNTED, strict=True) for t in range(3) if mask[t]]
    loss, _ = NextToken()(model, TOKENS, None, 3, COUNTED)
    assert loss.item() == pytest.approx(sum(some).item() / 3, abs=1e-6)


def test_is_the_mean_over_all_predictions() -> None:
    model = Bigram(3)
    logp = model.table.weight.log_softmax(-1)
    every = [-logp[row[t], row[t + 1]] for row in TOKENS for t in range(3)]
    loss, metrics = mean(NextToken(), model, TOKENS)
    assert loss.item() == pytest.approx(sum(every).item() / 6, abs=1e-6) and metrics == {}


def test_uniform_logits_cost_log_vocabulary_and_z_loss_its_square() -> None:
    model = Bigram(8)
    nn.init.zeros_(model.table.weight)
    assert mean(NextToken(), model, TOKENS)[0].item() == pytest.approx(math.log(8))
    loss, metrics = mean(NextToken(z_loss=0.5), model, TOKENS)
    assert loss.item() == pytest.approx(math.log(8) + 0.5 * math.log(8) ** 2)
    assert metrics == {
        "cross_entropy": pytest.approx(math.log(8)),
        "squared_log_partition": pytest.approx(math.log(8) ** 2),
    }
