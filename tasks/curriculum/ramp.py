"""A batch that grows: the first steps of a plan are cut into smaller ones of the same sequences in the same order.

Small batches early and large ones late do what a falling rate does to the noise of gradients: Smith et al. 2018
(arXiv:1711.00489), who let the batch grow where others lower the rate. modded-nanogpt's record of 2025-11-29 has batches of a
third and two thirds in the first two thirds of the run's steps. Differs from both: the batch doubles, after as many tokens each
time, and nothing else follows it. The schedule of the rate goes by steps, of which there are more; the record also raises the
rate with the batch.
"""

from dataclasses import replace

import numpy as np
from pydantic import Field

from lm.config import Config
from tasks.core.config import ConfigError
from tasks.curriculum.plan import Ranges


class Ramp(Config):
    doublings: int = Field(
        0,
        ge=0,
        le=16,
        description="of the batch until it is whole, from tokens_per_step / 2^doublings on; 0: it is at once",
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="of the run's tokens in which the batch is smaller, as many for each size"
    )

    def cuts(self, steps: int) -> np.ndarray:
        """parts_S: how many smaller steps each of a plan's steps becomes. Raises ConfigError where a size gets none."""
        edges = int(self.share * steps) * np.arange(self.doublings + 1) // max(self.doublings, 1)
        if (np.diff(edges) == 0).any():
            raise ConfigError(
                f"curriculum.ramp.share: {self.share:g} of a plan's {steps} steps is less than one for each of "
                f"{self.doublings} doublings"
            )
        found = np.ones(steps, dtype=np.int64)
        for doubled, (first, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            found[first:end] = 2 ** (self.doublings - doubled)
        return found

    def __call__(self, plan: Ranges) -> Ranges:
        """The plan in smaller steps. Raises ConfigError for a step whose sequences do not divide."""
        parts_S = self.cuts(int(plan.step[-1]) + 1)
        last = np.flatnonzero(np.diff(plan.step, append=plan.step[-1] + 1))
        sequences_S = plan.sequence[last] + 1
        uneven = np.flatnonzero(sequences_S % parts_S)
        if len(uneven):
            step = uneven[0]
            raise ConfigError(
                f"curriculum.ramp.doublings: {sequences_S[step]} sequences of step {step} of the plan cannot be divided into "
                f"{parts_S[step]} steps: change it or curriculum.tokens_per_step"
            )
        each_S, before_S = sequences_S // parts_S, np.cumsum(parts_S) - parts_S
        part, sequence = np.divmod(plan.sequence, each_S[plan.step])
        return replace(plan, step=before_S[plan.step] + part, sequence=sequence)
