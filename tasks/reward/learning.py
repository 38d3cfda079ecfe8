"""How a reward model learns from pairs: which of them a step takes, which heads learn from each, and the step's batch.

Letters: P pairs, R = 2 P rows, L tokens of a row, M heads.
"""

import torch
from torch import Tensor

from lm.heads import heads_of
from lm.model import Decoder
from lm.pairs.table import SIDES, PairTable
from lm.problems.example import unit_hash
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import Conversation, collate, sample_indices
from lm.transfer import Tensors, to_device
from tasks.reward.config import RewardConfig
from tasks.reward.held_out import side_scores
from tasks.reward.rounds import Rounds
from tasks.reward.step import loss_of

ROUND_APART = 1_000_003  # rounds do not draw in the same order


def member_counts(rows: list[int], members: int, share: float, seed: int) -> Tensor:
    """counts_PM: 1 where a head learns from the pair in a row of the table, else 0. Each head has its own share of the rows,
    which follows from the seed, the head and the row alone."""
    if share == 1:
        return torch.ones(len(rows), members)
    taken = [[unit_hash(f"head:{seed}:{head}:{row}") < share for head in range(members)] for row in rows]
    return torch.tensor(taken, dtype=torch.float32)


class Learning:
    """The data of each step. The model carries the heads."""

    def __init__(self, config: RewardConfig, model: Decoder, tokenizer: Tokenizer, found: PairTable) -> None:
        self._config, self._model, self._tokenizer, self._pairs = config, model, tokenizer, found
        self._learned = found.places(held_out=False)
        self.rounds = Rounds(self._learned, config.rounds, config.hard_fraction, config.steps, self._margins)

    def _margins(self) -> Tensor:
        """margin_P of the mean score, as the model is now, of every pair that is learned from."""
        pad_id = self._tokenizer.pad_id
        chosen_P, rejected_P = (
            side_scores(self._model, self._pairs, side, self._learned, pad_id).mean(1) for side in SIDES
        )
        return chosen_P - rejected_P

    def chosen_at(self, step: int) -> list[int]:
        """Rows of the table that a step learns from. With rounds, steps must be asked for in their order."""
        config, population = self._config, self.rounds.population(step)
        number, first = self.rounds.round_of(step)
        picks = sample_indices(step - first, config.batch, len(population), config.seed + ROUND_APART * number)
        return [population[place] for place in picks]

    def _conversations(self, rows: list[int]) -> list[Conversation]:
        return [self._pairs.conversation(side, row) for row in rows for side in SIDES]

    def step_data(self, step: int) -> list[Conversation | Tensor]:
        """Everything that decides a step of one round, given the weights."""
        rows = self.chosen_at(step)
        return [*self._conversations(rows), self._counts(rows)]

    def _counts(self, rows: list[int]) -> Tensor:
        config = self._config
        return member_counts(rows, config.members, config.share, config.seed)

    def fetch(self, step: int) -> Tensors:
        """ids_RL, the chosen and the rejected answer of each pair one after the other; last_R, where each row ends; counts_PM;
        and how many tokens there are."""
        rows = self.chosen_at(step)
        conversations = self._conversations(rows)
        ids_RL, _ = collate(conversations, self._tokenizer.pad_id)
        lengths_R = torch.tensor([len(conversation) for conversation in conversations])
        return ids_RL, lengths_R - 1, self._counts(rows), lengths_R.sum()

    def batch_of(self, step: int, host: Tensors, here: Tensors) -> Batch:
        """The step's batch, whose pairs are never parted."""
        ids, last, counts, tokens = host
        ids_RL, last_R, counts_PM, _ = here
        config, model, total = self._config, self._model, max(counts.sum().item(), 1.0)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            pairs = slice(rows.start // len(SIDES), rows.stop // len(SIDES))
            return loss_of(config.loss, model, ids_RL[rows], last_R[rows], counts_PM[pairs], total, config.batch)

        return Batch(len(ids), ids.shape[1], int(tokens), loss, content=(ids, last, counts), together=len(SIDES))

    def batch_at(self, step: int) -> Batch:
        """The step's batch, where its data depend on the model and so cannot be made ahead."""
        host = self.fetch(step)
        return self.batch_of(step, host, to_device(host, heads_of(self._model).weight.device))
