"""FLOP of a token counted by hand and by torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm.training.flops import flops_per_token, peak_flops
from tests.lm.models import toy_model


@pytest.mark.parametrize("tied", [True, False])
def test_products_are_as_many_as_torch_counts(tied: bool) -> None:
    model, B, T = toy_model(tied=tied), 2, 32
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(B, T, dtype=torch.int64)).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in counts.items() if "attention" not in str(name))
    assert flops_per_token(model, 0) * B * T == products


def test_by_hand() -> None:
    # 2 layers of q 32x32, k and v 16x32, o 32x32, three of 48x32, and a head of 261x32; attention 6 * 2 * 4 * 8 * 10
    products = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32) + 261 * 32
    assert flops_per_token(toy_model(), 10) == 6 * products + 6 * 2 * 4 * 8 * 10


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
