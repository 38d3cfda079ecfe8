"""The mean loss of a sequence is over what counts of it."""

import torch

from lm.training.data.sequence_losses import means


def test_means_by_hand() -> None:
    each = torch.tensor([[1.0, 2.0, 6.0], [4.0, 8.0, 1.0], [5.0, 5.0, 5.0]])
    counted = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    assert means(each, counted).tolist() == [1.5, 8.0, 0.0]
    assert means(each, None).tolist() == [3.0, torch.tensor(13 / 3).item(), 5.0]
