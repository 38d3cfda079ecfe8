"""The parameters of reinforcement learning."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from lm import problems
from lm.config import Seed, choice
from lm.schedules.feedback import Feedback
from lm.temperature import Divisor
from lm.training.prompted import Prompted
from tasks.core.config import CHECKPOINT, StartModel, check_watched
from tasks.rl import advantages, curricula, environments, losses, rewards
from tasks.rl import demonstrations as kinds_of_demonstrations
from tasks.rl.advantages import BestAndWorst
from tasks.rl.curricula import Shuffled
from tasks.rl.demonstrations import Hybrid, Unused
from tasks.rl.environments import SingleTurn
from tasks.rl.rewards import Correct
from tasks.rl.rewards.function import FOLDER

Part: Any = choice(rewards)


class RlConfig(Prompted):
    has_level: ClassVar[bool] = False
    model: StartModel
    steps: int = Field(120, gt=0, description="updates of the weights")
    prompts: int = Field(32, gt=0, description="problems a rollout; a multiple of minibatches")
    samples: int = Field(8, gt=0, description="answers to each problem")
    updates: int = Field(1, gt=0, description="passes over the answers of a rollout")
    minibatches: int = Field(2, gt=0, description="steps that make a pass, each of as many whole problems")
    max_new_tokens: int = Field(32, gt=0, description="tokens of an answer that the model itself may write")
    environment: choice(environments) = SingleTurn()
    temperature: Divisor = 1.0
    rewards: list[Part] = Field([Correct()], min_length=1, description="parts that add up to the reward of an answer")
    scorer: str = Field(
        CHECKPOINT,
        pattern="^[a-z0-9_]+$",
        description="the stage whose model the rewards `model` and `judge` score with, and the critic of `gae` may begin as",
    )
    curriculum: choice(curricula) = Shuffled()
    demonstrations: choice(kinds_of_demonstrations) = Unused()
    resample: int = Field(
        0,
        ge=0,
        le=4095,
        description="how often a rollout may ask other problems in place of those whose answers all earned the same, which are "
        "then left out; 0: none are. DAPO's dynamic sampling (arXiv:2503.14476, section 3.2), which asks without end",
    )
    replay: int = Field(
        0, ge=0, description="groups of answers kept to take the place of ones whose advantages are all 0; 0: none are"
    )
    staleness: int = Field(
        0,
        ge=0,
        description="rollouts by which the weights that sample are behind those that learn, as where both go on at once; 0: "
        "none. Each is a copy of the weights, in checkpoints too",
    )
    held_out: int = Field(
        0,
        ge=0,
        description="problems that are never asked, and answered greedily now and then to see whether what is learned holds "
        "of others; 0: none are",
    )
    held_out_every: int = Field(4, gt=0, description="rollouts from one such reading to the next")
    keep_rollouts: bool = Field(
        False,
        description="write all answers, their probabilities and rewards to data/rl/rollouts.parquet; shares no trunks",
    )
    advantage: choice(advantages)
    loss: choice(losses)
    problems: choice(problems)
    seed: Seed

    @model_validator(mode="after")
    def _divides(self) -> "RlConfig":
        if self.prompts % self.minibatches:
            raise ValueError(f"prompts must be a multiple of minibatches (got {self.prompts} and {self.minibatches})")
        if self.replay and self.advantage.baseline == "critic":
            raise ValueError(
                "replay keeps advantages, and those of gae are of a critic that has gone on: set replay to 0"
            )
        if self.loss.together > 1 and not isinstance(self.advantage, BestAndWorst):
            raise ValueError(
                f"loss {self.loss.name} learns from pairs of answers, and advantage {self.advantage.name} makes none: "
                "set advantage to {name: best_and_worst}"
            )
        if self.resample and isinstance(self.demonstrations, Hybrid):
            raise ValueError(
                "demonstrations hybrid puts one in the place of answers that failed, and resample other problems: "
                "set resample to 0, or take interleaved"
            )
        if self.learns_prompt and self.advantage.baseline == "critic":
            raise ValueError(
                "soft_prompt: the critic of gae begins as the policy, of which nothing but the prompt is trained: take another "
                "advantage"
            )
        if self.staleness and self.linear.repacks():
            raise ValueError(
                f"linear: {self.linear.name} puts other numbers in a matrix's place, where older weights have the matrix: "
                "set staleness to 0"
            )
        if self.stop_factor:
            raise ValueError("stop_factor: a policy's loss has no level to compare with: set it to 0")
        if isinstance(self.schedule, Feedback):
            name = getattr(self.schedule, "name", "this one")
            raise ValueError(f"schedule: {name} compares losses, and a policy's has no level: take another schedule")
        check_watched("rewards", [path for part in self.rewards for path in part.reads], [FOLDER])
        return self

    @property
    def rows_apart(self) -> str:
        return "answers are sampled beside others than those that they are learned beside"

    @property
    def older_weights(self) -> int:
        return self.staleness

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer, with what the environment adds to it."""
        return self.max_new_tokens + self.environment.max_added_tokens

    @property
    def steps_a_rollout(self) -> int:
        return self.updates * self.minibatches
