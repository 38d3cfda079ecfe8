"""EMA-Nesterov: gradients are taken ahead of the weights, where a running mean of their movements leads: Yau et al. 2026
(arXiv:2605.25395), around any optimizer.

Before each forward pass w += b e, from where the optimizer then steps, nothing being taken back; after it e becomes
memory e + (1 - memory) (w - w before). As in the authors' code b goes by the schedule of the rate, e is made from the first
step on, and nothing looks ahead before `begins` and from `ends` on.
"""

from pydantic import Field

from lm.config import Config


class Lookahead(Config):
    share: float = Field(
        0.0, ge=0, description="b, of the mean movement, at factor 1 of the schedule; 0: none; the paper's record: 0.6"
    )
    memory: float = Field(0.99, ge=0, lt=1, description="of the mean movement")
    begins: int = Field(0, ge=0, description="step from which it looks ahead; 500 of 3,125 in the record")
    ends: int = Field(0, ge=0, description="step from which it does no more; 0: never; 2,400 of 3,125 in the record")

    def at(self, step: int, factor: float) -> float:
        """b of a step in which the schedule has this factor."""
        there = step >= self.begins and (not self.ends or step < self.ends)
        return self.share * factor if there else 0.0
