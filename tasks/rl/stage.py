"""Reinforcement learning from a verifier: answers that it accepts become likelier."""

from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lm import problems
from lm.checkpoint import device, save_model
from lm.config import choice
from lm.model import Decoder
from lm.model_folder import read_model
from lm.problems.example import Example
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch, Metrics
from lm.training.data.conversations import places, sample_indices
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.transfer import moved
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.rl import advantages, losses
from tasks.rl.rollout import Rollout, Rollouts, Verdicts, answered, rollout_of
from tasks.rl.step import loss_of


class RlConfig(Recipe):
    model: StartModel
    steps: int = Field(120, gt=0, description="updates of the weights")
    prompts: int = Field(32, gt=0, description="problems a rollout; a multiple of minibatches")
    samples: int = Field(8, gt=0, description="answers to each problem")
    updates: int = Field(1, gt=0, description="passes over the answers of a rollout")
    minibatches: int = Field(2, gt=0, description="steps that make a pass, each of as many whole problems")
    max_new_tokens: int = Field(32, gt=0)
    temperature: float = Field(1.0, gt=0)
    advantage: choice(advantages)
    loss: choice(losses)
    problems: choice(problems)
    seed: int

    @model_validator(mode="after")
    def _divides(self) -> "RlConfig":
        if self.prompts % self.minibatches:
            raise ValueError(f"prompts must be a multiple of minibatches (got {self.prompts} and {self.minibatches})")
        return self

    @property
    def steps_a_rollout(self) -> int:
        return self.updates * self.minibatches


class Learning:
    """How a policy learns from rollouts."""

    def __init__(self, config: RlConfig, model: Decoder, tokenizer: Tokenizer, examples: list[Example]) -> None:
        self._config, self._model, self._tokenizer, self._examples = config, model, tokenizer, examples
        self.rollouts = Rollouts(self._rollout, config.prompts, config.updates, config.minibatches, config.seed)

    def problems(self, number: int) -> list[Example]:
        """Examples that a rollout asks, with rollouts counted from 0."""
        config = self._config
        return [self._examples[i] for i in sample_indices(number, config.prompts, len(self._examples), config.seed)]

    def _rollout(self, number: int) -> Rollout:
        """Rollout of the policy as it is now."""
        config, batch = self._config, self.problems(number)
        self._model.eval()

        def answers(samples: int, temperature: float) -> Verdicts:
            seed = config.seed * 1_000_003 + number
            return answered(
                self._model, self._tokenizer, config.problems, batch, samples, config.max_new_tokens, temperature, seed
            )

        sampled, greedy_G = answers(config.samples, config.temperature), None
        if config.advantage.needs_greedy:
            greedy = answers(1, 0.0)
            greedy_G = greedy.rewards_GS[:, 0].where(greedy.mask_GS[:, 0] > 0, torch.nan)  # no verdict, no baseline
        self._model.train()
        advantages_GS = config.advantage(sampled.rewards_GS, sampled.mask_GS, greedy_G)
        return rollout_of(sampled, advantages_GS, self._tokenizer.pad_id)

    def batch_at(self, step: int) -> Batch:
        """What an update is of. M answers; predictions behind the last one that counts are left out, and none that does not
        count has logits."""
        config, model = self._config, self._model
        rollout, rows_M = self.rollouts.at(step)
        mask_MT = rollout.mask_BT[rows_M]
        T = int(mask_MT.any(0).nonzero().max()) + 1 if mask_MT.any() else 1
        content = (
            rollout.ids_BN[rows_M, : T + 1],
            mask_MT[:, :T],
            rollout.logp_old_BT[rows_M, :T],
            rollout.advantages_B[rows_M],
        )
        tokens = int(content[1].sum())
        ids_MN, mask_MT, old_MT, advantages_M = moved(content, device())
        weights_MT = config.loss.weights(mask_MT, config.max_new_tokens)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            (places_K,) = moved([places(content[1][rows])], device())  # of the host's copy: a GPU's would be waited for
            old_RT, advantages_R, weights_RT = old_MT[rows], advantages_M[rows], weights_MT[rows]
            return loss_of(
                config.loss, config.temperature, model, ids_MN[rows], places_K, old_RT, advantages_R, weights_RT
            )

        return Batch(len(rows_M), T, tokens, loss, dict(rollout.metrics()), content=content)


def run(config: RlConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/rl. The probabilities that an update compares with are those under which the sampler drew."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    room = model.config.context - config.max_new_tokens
    examples = [e for e in config.problems.examples("rl") if len(tokenizer.chat(e.prompt)) <= room]
    if not examples:
        raise ConfigError(
            f"rl.max_new_tokens: no prompt fits the context of {model.config.context} less {config.max_new_tokens}"
        )
    learning = Learning(config, model, tokenizer, examples)

    def seen(step: int) -> list[Example]:
        return learning.problems(step // config.steps_a_rollout)

    trunks = log.trunks(config, config.steps, [model], [tokenizer.to_json()], seen)
    train(model, config, config.steps, learning.batch_at, log, trunks, [learning.rollouts])
    save_model(data / "rl", model, tokenizer)
    return {"steps": config.steps, "problems": len(examples)}
