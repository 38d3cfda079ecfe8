"""Digests of steps: a bit that differs is seen, and a run that was stopped leaves the same ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm.training.digests import BYTES_A_STEP, TENSOR_DIGITS, batch_digest, steps_apart, tensor_digest
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, batches, recipe


class Witness(Recorder):
    """Keeps the digests too."""

    def __init__(self, scratch: Path, stop_after: int | None = None) -> None:
        super().__init__(scratch, stop_after)
        self.said: dict[int, dict[str, Any]] = {}

    def digests(self, step: int, values: dict[str, Any]) -> None:
        self.said[step] = values

    def rewind(self, step: int) -> None:
        super().rewind(step)
        self.said = {s: values for s, values in self.said.items() if s < step}


def ids_at(step: int) -> Tensor:
    return torch.randint(0, 261, (4, 17), generator=torch.Generator().manual_seed(step))


def fit(log: Witness) -> None:
    """Nine steps of the toy model."""
    model = toy_model(seed=1)
    train(model, recipe(), 9, lambda step: replace(batches(model)(step), content=(ids_at(step),)), log)


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 300), st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]), st.data())
def test_every_bit_counts(entries: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = torch.arange(entries).to(dtype)
    flipped = tensor.clone()
    raw = flipped.view(torch.uint8).numpy()
    bit = data.draw(st.integers(0, 8 * raw.size - 1))
    raw[bit // 8] ^= np.uint8(1 << bit % 8)
    assert tensor_digest(tensor) != tensor_digest(flipped) and tensor_digest(tensor) == tensor_digest(tensor.clone())
    assert batch_digest([tensor]) != batch_digest([flipped])


def test_how_a_tensor_lies_in_memory_does_not_count_and_its_shape_and_type_in_a_batch_do() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert tensor_digest(tensor.t().contiguous().t()) == tensor_digest(tensor)
    assert batch_digest([tensor]) != batch_digest([tensor.view(4, 3)])
    assert batch_digest([tensor.int()]) != batch_digest([tensor.view(torch.int32)])
    assert batch_digest([torch.zeros(2), torch.ones(2)]) != batch_digest([torch.ones(2), torch.zeros(2)])


@pytest.mark.parametrize(
    ("nbytes", "apart"), [(4, 1), (BYTES_A_STEP, 1), (BYTES_A_STEP + 4, 2), (30 * BYTES_A_STEP, 30)]
)
def test_larger_models_are_hashed_less_often(nbytes: int, apart: int) -> None:
    assert steps_apart({"a": torch.empty(nbytes // 4, device="meta")}) == apart


def test_a_step_says_the_weights_it_begins_with_and_a_stopped_run_says_the_same(tmp_path: Path) -> None:
    whole = Witness(tmp_path / "whole")
    fit(whole)
    model, first = toy_model(seed=1).state_dict(), whole.said[0]
    assert first["names"] == list(model) and first["weights"] == "".join(map(tensor_digest, model.values()))
    assert whole.said[5]["batch"] == batch_digest([ids_at(5)]) and "names" not in whole.said[5]
    assert len(first["weights"]) == TENSOR_DIGITS * len(model) and sorted(whole.said) == list(range(9))
    stopped = Witness(tmp_path / "stopped", stop_after=4)
    with pytest.raises(Stopped):
        fit(stopped)
    stopped.stop_after, stopped.stopping = None, False
    fit(stopped)
    assert stopped.said == whole.said
