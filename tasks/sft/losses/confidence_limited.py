"""Direct coverage optimization: a loss for a model that will be asked `samples` times (Chen et al. 2025, arXiv:2502.07154).

Cross-entropy goes on raising the probability of answers that are likely already, at the cost of others, which pass@N does not
reward. Letters: K predictions, C conversations.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import Config
from lm.training.batch import Metrics
from tasks.sft.losses.base import TokenPredictions

# The most likely an answer is taken for: 1 - p must not be 0, and at this p the gradient is below 1e-9 from two samples on
CERTAIN = -1e-9


def negative_log_coverage(logp_C: Tensor, samples: int) -> Tensor:
    """-log(1 - (1 - p)^N) of answers with log p (nats): what it costs that none of N samples is the answer; equation 3 of the
    paper. With N = 1 it is -log p. Where N p < 1e-8 it is -log p - log N, which float64 cannot tell from it."""
    logp_C = logp_C.double()
    rare_C = logp_C < -18.5 - math.log(samples)
    # both branches are finite everywhere, since a gradient flows through either
    likely_C = torch.where(rare_C, -1.0, logp_C.clamp(max=CERTAIN))
    covered_C = -torch.log(-torch.expm1(samples * torch.log1p(-likely_C.exp())))
    return torch.where(rare_C, -logp_C - math.log(samples), covered_C)


class ConfidenceLimited(Config):
    """Cost of missing an answer in N samples. The gradient is that of the answer's log-likelihood times
    N p (1 - p)^(N - 1) / (1 - (1 - p)^N): 1 where the answer is rare, and towards 0 once N samples are sure to have it.

    A mean over the conversations of a step. Differs from the paper: p is of all that is learned of a conversation, so that one
    of several answers counts as one; a weight of a message multiplies its log-probability.
    """

    name: Literal["confidence_limited"] = "confidence_limited"
    of_whole_answers: ClassVar[bool] = True
    samples: int = Field(16, gt=0, description="N of the pass@N that counts; 1: the log-likelihood of whole answers")

    def __call__(self, learned: TokenPredictions) -> tuple[Tensor, Metrics]:
        logp_C, here_C = learned.by_conversation(learned.log_probabilities())
        each_C = torch.where(here_C, negative_log_coverage(logp_C, self.samples), 0.0)
        confident = torch.where(here_C, logp_C.detach().exp(), 0.0).sum() / learned.conversations
        return (each_C.sum() / learned.conversations).to(logp_C.dtype), {"confidence": confident}
