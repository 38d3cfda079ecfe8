"""What a model costs in arithmetic, and what accelerators could do in the same time."""

import torch

from lm.model import Decoder

# Dense bf16 with fp32 sums, FLOP/s, from NVIDIA's datasheets; the first name that the device's name contains.
PEAKS = {
    "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H20": 148e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def flops_per_token(model: Decoder, length: int) -> float:
    """Forward and backward, in sequences of `length` positions: 6 for each weight of a product and, for causal attention,
    6 * layers * heads * head width * length.

    As in PaLM (arXiv:2204.02311, appendix B), of whose attention the mask leaves half. Norms and pointwise work are
    left out; a tied embedding counts as the head alone.
    """
    config = model.config
    products = sum(weight.numel() for name, weight in model.named_parameters() if weight.ndim == 2)
    looked_up = 0 if config.tied else model.embedding.weight.numel()
    return 6.0 * (products - looked_up) + 6.0 * config.layers * config.heads * config.each_head * length


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the device in bf16; None for a CPU and for GPUs that PEAKS lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)
