"""From what the model is sure of to what it is not: the curriculum of Reinforcement Mid-Training, Tian et al. 2025
(arXiv:2509.24375).

N examples, R rows read together, L levels of entropy, V vocabulary.
"""

from collections.abc import Sequence
from math import comb
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lm.model import Decoder
from lm.problems.example import Example
from lm.softcap import capped
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import hidden_at, sample_indices
from tasks.rl.curricula.base import NO_CONTEXT, Chooser, Curriculum, CurriculumContext, DrawnProblem

# Read together at most, padding counted; a constant, since how many rows a product has decides its last bits
POSITIONS = 8192


def entropies(logits_NV: Tensor) -> Tensor:
    """entropy_N in nats: - sum p log p."""
    logp_NV = logits_NV.float().log_softmax(-1)
    return -(logp_NV.exp() * logp_NV).sum(-1)


@torch.no_grad()
def prompt_entropies(examples: Sequence[Example], model: Decoder, tokenizer: Tokenizer) -> np.ndarray:
    """entropy_N, nats, of the token that follows each prompt as plain text, begun as a document is, of which the last tokens
    are read where it is longer than the context. The model is left in the mode in which it was."""
    training = model.training
    model.eval()
    context = model.config.context
    begin = [tokenizer.eos_id, *tokenizer.before]
    texts = [[*begin, *tokenizer.encode(example.prompt)][-context:] for example in examples]
    order = sorted(range(len(texts)), key=lambda number: (len(texts[number]), number))
    found_N, first = np.zeros(len(texts)), 0
    while first < len(order):
        end = first + 1
        while end < len(order) and (end + 1 - first) * len(texts[order[end]]) <= POSITIONS:
            end += 1
        some = order[first:end]
        longest = len(texts[some[-1]])
        ids_RT = torch.tensor([texts[n] + [tokenizer.pad_id] * (longest - len(texts[n])) for n in some])
        last_R = torch.tensor([row * longest + len(texts[n]) - 1 for row, n in enumerate(some)])
        where = model.embedding.weight.device
        x_RD = hidden_at(model, ids_RT.to(where), last_R.to(where))
        logits_RV = capped(F.linear(x_RD, model.head_weight), model.config.logit_softcap)
        found_N[some] = entropies(logits_RV).double().cpu().numpy()
        first = end
    model.train(training)
    return found_N


def levels_of(entropy_N: np.ndarray, levels: int) -> list[list[int]]:
    """Places of the examples of each level, the surest first: as many in each as can be, equal ones in their order."""
    order = np.argsort(entropy_N, kind="stable")
    return [[int(place) for place in part] for part in np.array_split(order, levels)]


def mixture(share: float, levels: int, floor: float) -> np.ndarray:
    """share_L of each level when this share of the run is done: the binomial weights of L - 1 draws, which move from the first
    level to the last as the run goes on, and of `floor` of them all levels alike."""
    binomial_L = [comb(levels - 1, n) * share**n * (1 - share) ** (levels - 1 - n) for n in range(levels)]
    return (1 - floor) * np.array(binomial_L) + floor / levels


class Rising(Chooser):
    """Levels are drawn by the mixture of the moment, problems of a level by a shuffle of its own in every pass over them."""

    def __init__(self, examples: list[Example], seed: int, known: CurriculumContext, levels: int, floor: float) -> None:
        super().__init__(examples, seed)
        self._entropy_N = np.zeros(len(examples)) if known.entropy_N is None else known.entropy_N
        self._members = [members for members in levels_of(self._entropy_N, levels) if members]
        self._level = {place: level for level, members in enumerate(self._members) for place in members}
        self._rollouts, self._floor = known.rollouts, floor
        self._passed_L = np.zeros(len(self._members), np.int64)

    def choose(self, number: int, draw: int, count: int) -> list[DrawnProblem]:
        share = min(number / max(self._rollouts - 1, 1), 1.0)
        share_L = mixture(share, len(self._members), self._floor)
        chosen = []
        for level in self.generator(number, draw).choice(len(share_L), count, p=share_L):
            members = self._members[level]
            # each level has a stream of its own, or the same places of all would be asked together
            (place,) = sample_indices(int(self._passed_L[level]), 1, len(members), self.seed + 1_000_003 * int(level))
            self._passed_L[level] += 1
            chosen.append(DrawnProblem(members[place]))
        return chosen

    def metrics(self, asked: Sequence[DrawnProblem]) -> dict[str, float]:
        """The mean entropy before the first step, nats, of what is asked, and its mean level, from 0 on."""
        return {
            "asked_entropy": float(np.mean([self._entropy_N[problem.index] for problem in asked])),
            "asked_level": float(np.mean([self._level[problem.index] for problem in asked])),
        }

    def state(self) -> dict[str, Tensor]:
        return {"passed_L": torch.from_numpy(self._passed_L.copy())}

    def load(self, state: dict[str, Tensor]) -> None:
        self._passed_L = state["passed_L"].numpy().copy()


class ByEntropy(Curriculum):
    """Problems in levels by the entropy that the start model has of the token after a prompt: at first those where it is low,
    then more and more where it is high. For `segments` of words it is that of the word that is asked.

    What is the paper's: tokens are told easy from hard by entropy, and sampled by a mixture that moves from easy to hard.
    Differs from the paper: its weights of the mixture, which its abstract does not tell, are binomial here; entropy is measured
    once, before the first step."""

    name: Literal["by_entropy"] = "by_entropy"
    asks_model: ClassVar[bool] = True
    levels: int = Field(3, ge=2, description="of entropy, with as many problems in each")
    floor: float = Field(0.1, ge=0, le=1, description="share of what is asked that is of all levels alike")

    def at(self, share: float) -> list[float]:
        return mixture(share, self.levels, self.floor).tolist()

    def chooser(self, examples: list[Example], seed: int, known: CurriculumContext = NO_CONTEXT) -> Chooser:
        return Rising(examples, seed, known, self.levels, self.floor)
