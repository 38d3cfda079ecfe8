"""Quantized on a device as on a CPU."""

from typing import Any

import pytest
import torch

from tasks.quantize.methods import Gptq, Int4Group, Int8
from tests.gpu.models import CPU, relative


@pytest.mark.parametrize("method", [Gptq(group=32), Int4Group(group=32), Int8()], ids=lambda method: method.name)
@pytest.mark.parametrize("sizes", [(96, 64), (64, 160)])
def test_the_weights_are_those_of_a_cpu(device: torch.device, method: Any, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI, inputs_NI = torch.randn(sizes, generator=generator), torch.randn(256, sizes[1], generator=generator)
    wanted, got = (method(weight_OI.to(place), inputs_NI.to(place)).dequantize().cpu() for place in (CPU, device))
    # sums in another order may turn a code that lies between two, and with it what later columns make up for
    assert relative(got, wanted) < (0.05 if method.name == "gptq" else 1e-6)
