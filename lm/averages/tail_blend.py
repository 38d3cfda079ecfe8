"""The last weights blended with an average of the end of the run: the tail EMA of modded-nanogpt's track 3, record 45.

(1 - blend) w + blend e, where e begins as the weights at `start` and follows e += (w - e) / horizon at each step. Differs from
the source: horizon and start are parts of the run, 150 and 2,000 of its 2,720 steps; all weights are blended.
"""

from typing import Literal

from pydantic import Field

from lm.config import Config


class TailBlend(Config):
    name: Literal["tail_blend"] = "tail_blend"
    blend: float = Field(0.55, gt=0, lt=1, description="what the average counts for beside the last weights")
    horizon: float = Field(0.055, gt=0, lt=1, description="memory of the average, of all steps")
    start: float = Field(0.74, ge=0, lt=1, description="where it begins, of all steps")

    def __call__(self, step: int, total_steps: int) -> float:
        """1 where it begins and then one over the horizon; in the end what leaves `blend` of the average."""
        first, older = int(self.start * total_steps), 1 - 1 / max(self.horizon * total_steps, 1.0)
        if step <= first:
            return 1.0 if step == first else 0.0
        return 1 - (self.blend if step + 1 == total_steps else 1.0) * older
