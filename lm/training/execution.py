"""How a run computes what its parameters ask for. It decides the order of sums, so a run that goes on keeps its choice."""

import torch
from torch import Tensor

from lm.model import Decoder
from lm.settings import POSITIONS
from lm.training.batch import Batch, rows_at_once
from lm.training.flops import flops_per_token
from lm.training.growing import at_full_depth
from lm.training.memory import memory_bytes, positions_at_once
from lm.training.parallel import parts_of_a_batch
from lm.training.parallel.base import Parallel
from lm.training.precision import compiles, matmul_dtype
from lm.training.recipe import Recipe
from lm.training.recomputing import Selective

# Sizes of batches for which there is compiled code each. Parts of a batch double them, and torch gives up after 8.
FEW_SHAPES = 4


def set_recomputation(model: Decoder, recipe: Recipe, positions: int) -> None:
    """Have the model recompute what the recipe says, given how many positions fit, 0 where too few do for a row."""
    model.recompute = recipe.recompute in ("whole", "selective") or (recipe.recompute == "auto" and positions == 0)
    own = {"context_fn": Selective()} if recipe.recompute == "selective" else {}
    model.checkpointing = {"use_reentrant": False, **own}


class Execution:
    """positions: how many a backward pass may hold at once, 0 for too few. compiled: whether blocks are. flops: of a
    step, as the first batch has it, at full depth. divided: whether positions were too few for a batch so far, and so decided a
    sum.

    All but divided follow from the run's first batch, or from the checkpoint it goes on from.
    """

    def __init__(self) -> None:
        self.positions, self.compiled, self.flops, self.divided, self._decided = 0, False, 0, False, False
        self._between_parts = ""

    def decide(self, recipe: Recipe, steps: int, batch: Batch, parallel: Parallel) -> None:
        """Decide once, from the first batch, the same on every rank; then bring the model into that state."""
        model = parallel.model
        self._between_parts = parallel.between_parts
        set_recomputation(model, recipe, 1)
        if not self._decided:
            device = model.embedding.weight.device
            with at_full_depth(model):
                self.flops = int(batch.rows * batch.length * flops_per_token(model, batch.length))
                self.positions = parallel.all_reduce_min(positions_at_once(parallel, batch, device))
            wanted = compiles(recipe.compiling, device, steps * self.flops)
            self.compiled = bool(parallel.all_reduce_min(wanted))
            self._decided = True
        set_recomputation(model, recipe, self.positions)
        # Left to itself torch makes code for the first length, then for any, so that bits of a length hang on what came before
        model.compile_blocks(self.compiled, any_length=not 0 < batch.shapes <= FEW_SHAPES)

    def note_batch(self, batch: Batch, recipe: Recipe) -> None:
        """Take note of a batch whose gradients were made."""
        self.divided |= rows_at_once(batch, self.positions) < batch.rows // parts_of_a_batch(recipe)

    def described(self, recipe: Recipe, device: torch.device) -> dict[str, str]:
        """What of it decides the bits of the run, in words, for the record of what made an output. Memory is named where it
        has decided how a batch was divided."""
        found = {
            "device": device.type,
            "products": str(matmul_dtype(recipe.precision, device)).removeprefix("torch."),
            "compiled": "yes" if self.compiled else "no",
            "deterministic": "yes" if recipe.deterministic else "no",
            "positions": f"{self.positions} at once" if self.divided else "whole batches",
        }
        if self.divided and (given := POSITIONS.read()) is not None:
            found[POSITIONS.name] = str(given)
        elif self.divided:
            found["memory"] = f"{memory_bytes(device)} bytes"
        if self.divided and self._between_parts:
            found["between parts"] = self._between_parts
        return found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of these choices."""
        values = {
            "positions": self.positions, "compiled": self.compiled, "flops": self.flops, "divided": self.divided,
        }  # fmt: skip
        return {name: torch.tensor(value) for name, value in values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Keep to the choices of a state()."""
        self.positions, self.compiled = int(state["positions"]), bool(state["compiled"])
        self.flops, self.divided = int(state["flops"]), bool(state["divided"])
        self._decided = True
