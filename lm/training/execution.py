"""How a run computes what its parameters ask for. It decides the order of sums, so a run that goes on keeps its choice."""

import torch
from torch import Tensor

from lm.training.batch import Batch
from lm.training.flops import flops_per_token
from lm.training.memory import positions_at_once
from lm.training.parallel.base import Parallel
from lm.training.precision import compiles
from lm.training.recipe import Recipe


class Execution:
    """positions: how many a backward pass may hold at once, 0 for less than a row. compiled: whether blocks are. flops: of a
    step, as the first batch has it.

    All follow from the run's first batch, or from the checkpoint it goes on from.
    """

    def __init__(self) -> None:
        self.positions, self.compiled, self.flops, self._decided = 0, False, 0, False

    def decide(self, recipe: Recipe, steps: int, batch: Batch, parallel: Parallel) -> None:
        """Once, from the first batch, the same on every rank; then bring the model into that state."""
        model = parallel.model
        if not self._decided:
            device = model.embedding.weight.device
            self.flops = int(batch.rows * batch.length * flops_per_token(model, batch.length))
            self.positions = parallel.agree(positions_at_once(parallel, batch, device))
            self.compiled = bool(parallel.agree(compiles(recipe.compile, device, steps * self.flops)))
            self._decided = True
        model.recompute = self.positions == 0
        model.compile_blocks(self.compiled)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        values = {"positions": self.positions, "compiled": self.compiled, "flops": self.flops}
        return {name: torch.tensor(value) for name, value in values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Keep to the choice of a state()."""
        self.positions, self.compiled = int(state["positions"]), bool(state["compiled"])
        self.flops = int(state["flops"])
        self._decided = True
