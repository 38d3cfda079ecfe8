"""How well a model predicts what it is calibrated with."""

import torch
import torch.nn.functional as F

from lm.calibration import Batch
from lm.model import Decoder


@torch.no_grad()
def nats_of(model: Decoder, batches: list[Batch]) -> float:
    """Mean negative log-likelihood (nats) of the tokens that are no padding, each given those before it in its row."""
    total, count, device = 0.0, 0, model.embedding.weight.device
    for ids_BT, real_BT in batches:
        ids_BT, real_BT = ids_BT.to(device), real_BT.to(device)
        logits = model(ids_BT[:, :-1]).float()
        each = F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
        counted = real_BT[:, 1:].flatten()
        total += each[counted].double().sum().item()
        count += int(counted.sum())
    return total / max(count, 1)
