"""FLOP of a token counted by hand and by torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm.training.flops import PEAKS, card_of, flops_per_token, forward_flops_per_token, peak_flops
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


@pytest.mark.parametrize("tied", [True, False])
def test_a_pass_without_gradients_has_a_third_of_them_whatever_is_frozen(tied: bool) -> None:
    model, B, T = toy_model(tied=tied), 2, 32
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(B, T, dtype=torch.int64))
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in counts.items() if "attention" not in str(name))
    assert forward_flops_per_token(model, 0) * B * T == pytest.approx(products, rel=1e-12)
    assert not any(weight.requires_grad for weight in model.parameters())
    # attention too: 2 * 2 layers * 4 heads * 8 * 10 positions
    assert forward_flops_per_token(model, 10) - forward_flops_per_token(model, 0) == pytest.approx(2 * 2 * 4 * 8 * 10)


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA L40", None),  # half of an L40S
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
    ],
)
def test_a_card_is_known_by_all_words_of_its_name(name: str, card: str | None) -> None:
    assert card_of(name, PEAKS) == card_of(name, reversed(PEAKS)) == card


def test_a_peak_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    assert peak_flops(torch.device("cuda")) == 362e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40")
    assert peak_flops(torch.device("cuda")) is None
