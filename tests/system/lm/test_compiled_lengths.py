"""Compiled training on rows of any length: gradients of a batch do not hang on which batches the process has seen before, so that
a run which goes on in a process that has compiled nothing ends in the same bits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lm.averages import Last
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch
from lm.training.data.conversations import token_logps
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Log
from tests.lm.models import toy_model

# Rows and length of batches. Left to itself, torch makes code for the first of a process alone and for any of them then, whose
# sums it orders otherwise: gradients of norms differ in their last bits
ANY = [(4, 17), (3, 33), (4, 23), (3, 40)]
TWO = [(4, 24), (3, 31), (4, 24), (3, 31)]


def gradients(sizes: list[tuple[int, int]], any_length: bool) -> dict[str, Tensor]:
    """Of the last of these batches, in a process that has compiled nothing before them."""
    torch.compiler.reset()
    model = toy_model(seed=1).train()
    model.compile_blocks(True, any_length)
    for rows, length in sizes:
        model.zero_grad()
        loss_of(model, rows, length).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def loss_of(model: Decoder, rows: int, length: int) -> Tensor:
    ids = torch.randint(0, 261, (rows, length + 1), generator=torch.Generator().manual_seed(length))
    return -token_logps(model, ids, torch.arange(rows * length)).sum() / (rows * length)


@pytest.mark.parametrize(("sizes", "any_length"), [(ANY, True), (TWO, False)])
def test_what_came_before_decides_no_bit(sizes: list[tuple[int, int]], any_length: bool) -> None:
    after_others, alone = gradients(sizes, any_length), gradients(sizes[-1:], any_length)
    assert [name for name, gradient in alone.items() if not torch.equal(gradient, after_others[name])] == []


@pytest.mark.parametrize(("shapes", "any_length"), [(0, True), (1, False), (4, False), (5, True)])
def test_code_for_each_size_where_there_are_few(
    shapes: int, any_length: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(Decoder, "compile_blocks", lambda self, *given, **more: asked.append((given, more)))
    model = toy_model()
    recipe = Recipe(optimizer=AdamW(), schedule=Cosine(), average=Last(), clip=1.0, compile="on")
    train(
        model, recipe, 1, lambda step: Batch(4, 17, 68, lambda rows: (loss_of(model, 4, 17), {}), shapes=shapes), Log()
    )
    assert asked == [((True,), {"any_length": any_length})]
