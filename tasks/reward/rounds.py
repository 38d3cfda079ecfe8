"""Hard negatives in rounds: pairs that the reward model itself ranks worst are learned from once more.

After self-training for code by re-ranking (Sorokin et al. 2025, "Iterative Self-Training for Code Generation via Reinforced
Re-Ranking", arXiv:2504.09643): train, score what is wrong, add the wrong answers that score high as negatives, train again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm.training.components import Component


def hardest(margin_P: Tensor, fraction: float) -> list[int]:
    """Places of this fraction of the pairs, one at least: those whose margins are smallest, in which a rejected answer scores
    highest beside its chosen one; of equal ones the first."""
    count = max(1, round(fraction * len(margin_P)))
    return torch.argsort(margin_P, stable=True)[:count].tolist()


class Rounds(Component):
    """The pairs that each step draws from: all that are learned from, and from the second of so many equal rounds on those
    too that were hardest when the round began.

    margins(): by how much the model, as it is now, scores each chosen answer above its rejected one. Differs from the paper:
    answers are those that the sources gave, not sampled anew from a retrained model; the scorer is trained by the loss of
    pairs, not by PPO; and a wrong answer is high beside the right one of its pair, since scores have no zero that prompts
    share.
    """

    name = "rounds"

    def __init__(
        self, learned: Sequence[int], rounds: int, fraction: float, steps: int, margins: Callable[[], Tensor]
    ) -> None:
        self._learned, self._rounds, self._fraction, self._steps = list(learned), rounds, fraction, steps
        self._margins = margins
        self._number, self._hard = 0, list[int]()

    def round_of(self, step: int) -> tuple[int, int]:
        """(number of the step's round, the round's first step)."""
        number = step * self._rounds // self._steps
        return number, -(-number * self._steps // self._rounds)

    def population(self, step: int) -> list[int]:
        """Rows of the table that the step draws from. Steps must be asked for in their order."""
        number, _ = self.round_of(step)
        if number != self._number:
            self._hard = [self._learned[place] for place in hardest(self._margins(), self._fraction)]
            self._number = number
        return self._learned + self._hard

    def state(self) -> dict[str, Tensor]:
        if not self._hard:
            return {}
        return {"number": torch.tensor(self._number), "hard": torch.tensor(self._hard)}

    def load(self, state: dict[str, Tensor]) -> None:
        if state:
            self._number, self._hard = int(state["number"]), state["hard"].tolist()
