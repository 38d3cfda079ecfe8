"""Quantized on a device as on a CPU."""

from typing import Any

import pytest
import torch

from lm.calibration import LayerInputs
from tasks.quantize.methods import Awq, Gptq, Int8, LearnedRounding, Rtn, TritPlanes
from tests.gpu.models import CPU, relative

METHODS = [
    Gptq(group=32), Gptq(group=32, order="activations", symmetric=True), Rtn(group=32), Rtn(bits=3, group=32, symmetric=True), Int8(),
    Awq(group=32), LearnedRounding(group=32, steps=100), TritPlanes(group=32),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("sizes", [(96, 64), (64, 160)])
def test_the_weights_are_those_of_a_cpu(device: torch.device, method: Any, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI, inputs_NI = torch.randn(sizes, generator=generator), torch.randn(256, sizes[1], generator=generator)
    wanted, got = (
        method(weight_OI.to(place), LayerInputs(inputs_NI.to(place))).dequantize().cpu() for place in (CPU, device)
    )
    # sums in another order may turn a code that lies between two, and with it what later columns make up for, or another is
    # tried
    assert relative(got, wanted) < (0.05 if method.needs_calibration else 1e-6)
