"""What a reward model makes of an answer, which the stage reward has trained: one head's score, or a cautious one of several.

An ensemble that is pessimistic where its members disagree: the lower bound of offline Q-ensembles (SAC-N, and with fewer
members Nikulin et al. 2022, arXiv:2211.11092), in the place of Q functions reward models, as Coste et al. 2023
(arXiv:2310.02743) have it against optimizing a reward model beyond what it knows.
"""

import math
from typing import Literal

from pydantic import Field, PrivateAttr
from torch import Tensor

from lm.checkpoint import device
from lm.config import ConfigError
from lm.heads import lower_bound, read_scorer, scores_of
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from tasks.rl.rewards.base import Answer, Models, Part, RewardContext


def bounded(scores_NM: Tensor, bound: str, penalty: float) -> Tensor:
    """value_N of N answers by M heads: their mean, the lowest of them, or the mean less `penalty` standard deviations."""
    if bound == "lowest":
        return scores_NM.amin(1)
    return lower_bound(scores_NM, penalty if bound == "spread" else 0.0)


class Model(Part):
    """The score of the model in data/<rl.scorer>, read behind the answer's last token; it has no unit, and no zero that prompts
    share, which an advantage within a group does not ask for. An answer that does not fit its context is invalid.

    Differs from the papers: members are heads on one model (reward.members, reward.share), not networks of their own; the
    penalty is a standard deviation, where Coste et al. take the variance; what the former scales for fewer members, batch and
    learning rate, are reward.batch and reward.optimizer.lr.
    """

    name: Literal["model"] = "model"
    bound: Literal["mean", "lowest", "spread"] = Field(
        "mean", description="of several heads: the mean, the lowest, or the mean less `penalty` standard deviations"
    )
    penalty: float = Field(1.0, ge=0, description="standard deviations that bound: spread takes off")
    _scorer: tuple[Decoder, Tokenizer] | None = PrivateAttr(None)

    @property
    def models(self) -> list[Decoder]:
        return [self._scorer[0]] if self._scorer else []

    def open(self, models: Models) -> None:
        try:
            scorer, tokenizer = read_scorer(models.scorer)
        except ValueError as error:
            raise ConfigError(
                f"rl.rewards: {self.name}: {error}; set rl.scorer: reward, or leave the part out"
            ) from None
        if tokenizer != models.tokenizer:
            raise ConfigError(
                f"rl.rewards: {self.name}: {models.scorer} has another tokenizer than {models.start}: begin both with one model"
            )
        self._scorer = scorer.to(device()).requires_grad_(False), tokenizer

    def __call__(self, answers: list[Answer], context: RewardContext) -> list[float]:
        assert self._scorer is not None, "open() comes first"
        scorer, tokenizer = self._scorer
        whole = [tokenizer.chat(answer.example.prompt) + answer_ids(answer, tokenizer) for answer in answers]
        fitting = [place for place, ids in enumerate(whole) if len(ids) <= scorer.config.context]
        values = [math.nan] * len(answers)
        scores_NM = scores_of(scorer, [whole[place] for place in fitting], tokenizer.pad_id)
        for place, value in zip(fitting, bounded(scores_NM, self.bound, self.penalty).tolist(), strict=True):
            values[place] = value
        return values


def answer_ids(answer: Answer, tokenizer: Tokenizer) -> list[int]:
    """The ids of the whole answer: those that the policy wrote, or, where it was given a beginning, its text's."""
    if tokenizer.decode(answer.ids) == answer.text:
        return answer.ids
    return tokenizer.encode(answer.text) + [tokenizer.end_id] * answer.finished
