"""What reinforcement learning asks of its problems, its model and its own numbers."""

from collections.abc import Iterator

import torch

from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room, check_split
from tasks.about.prompts import check_carries
from tasks.about.sections import Sections
from tasks.about.training import check_alike, check_shards
from tasks.core.config import CHECKPOINT, ConfigError
from tasks.rl.advantages import Gae
from tasks.rl.curricula import Bandit
from tasks.rl.held_out import split_held_out
from tasks.rl.rewards import Model
from tasks.rl.stage import RlConfig


def contracts(sections: Sections) -> Iterator[Finding]:
    """Findings, one for each thing that the parameters of rl ask of others and that does not hold."""
    config = sections["rl"]
    yield from check_shards("rl.prompts", config, config.prompts * config.samples // config.minibatches)
    yield from check_alike("rl", sections)
    yield from check_split(config.problems, "rl", sections.shape("rl").vocab_size)
    yield from check_room("rl.max_new_tokens", config.problems, ("rl",), config.answer_tokens, sections, "rl")
    yield from check_carries(sections, "rl")
    yield from advantages(config)
    yield from levels(config)
    yield from scorers(config)
    yield from held_out(config)
    if config.environment.adds and any(part.by_step for part in config.rewards):
        yield Finding(
            "params.yaml: rl.rewards",
            "process scores the steps of answers that the model writes alone, and rl.environment adds to them",
            "leave one of them out",
        )


def held_out(config: RlConfig) -> Iterator[Finding]:
    """One problem at least is not held out, and left to ask."""
    if config.held_out:
        try:
            split_held_out(config.problems.examples("rl"), config.held_out, config.problems)
        except ConfigError as error:
            said = str(error).removeprefix("rl.held_out: ").removesuffix(": hold fewer out")
            yield Finding("params.yaml: rl.held_out", said, "hold fewer out")


def levels(config: RlConfig) -> Iterator[Finding]:
    """A bandit has more than one level of problems to choose from."""
    if isinstance(config.curriculum, Bandit) and len({e.level for e in config.problems.examples("rl")}) < 2:
        yield Finding(
            "params.yaml: rl.curriculum",
            "bandit chooses between levels, of which these problems have none or one",
            "give them a `level`, or take shuffled",
        )


def scorers(config: RlConfig) -> Iterator[Finding]:
    """Who scores with a reward model, or begins as one, has one."""
    part = next((part for part in config.rewards if isinstance(part, Model)), None)
    if config.scorer == CHECKPOINT and part:
        yield Finding(
            "params.yaml: rl.scorer",
            f"{CHECKPOINT} is no reward model, by which rl.rewards {part.name} scores",
            "set it to reward",
        )
    if config.scorer == CHECKPOINT and isinstance(config.advantage, Gae) and config.advantage.start == "scorer":
        yield Finding(
            "params.yaml: rl.scorer",
            f"{CHECKPOINT} is no reward model, as which gae's critic is to begin",
            "set it to reward",
        )


def advantages(config: RlConfig) -> Iterator[Finding]:
    """Answers to one problem, half of them right where there are several, must not all get the advantage 0."""
    rewards_GS = (torch.arange(4)[:, None] + torch.arange(config.samples)) % 2 * 1.0
    found_GS = config.advantage(rewards_GS, torch.ones_like(rewards_GS), torch.zeros(4))
    if not found_GS.any():
        yield Finding(
            "params.yaml: rl.samples",
            f"with {config.samples} to a problem, rl.advantage {config.advantage.name} is always 0 and nothing is learned",
            "ask for more",
        )
