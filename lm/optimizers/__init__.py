"""Optimizers: `build(named parameters) -> torch.optim.Optimizer`, whose groups keep `base_lr` for the loop to scale."""

from lm.optimizers.adamw import AdamW
from lm.optimizers.muon import Muon
