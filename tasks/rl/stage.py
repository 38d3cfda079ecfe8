"""Reinforcement learning from a verifier: answers that earn more than others become likelier."""

from collections.abc import Iterator
from pathlib import Path

from lm.checkpoint import device, save_model
from lm.inputs.hashed import hashed_files
from lm.model_folder import read_model
from lm.prompts.base import put_prompt
from lm.training.loop import train
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.rl.config import RlConfig
from tasks.rl.held_out import split_held_out
from tasks.rl.learning import Learning
from tasks.rl.ledger import Ledger
from tasks.rl.rewards.base import Models
from tasks.rl.rewards.function import FOLDER


def run(config: RlConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/rl: a model, and rollouts.parquet where they are kept. The probabilities that an update compares
    with are those under which the sampler drew."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    put_prompt(model, config.soft_prompt)
    room = model.config.context - config.answer_tokens
    examples = [e for e in config.problems.examples("rl") if len(tokenizer.chat(e.prompt)) <= room]
    if not examples:
        raise ConfigError(
            f"rl.max_new_tokens: no prompt fits the context of {model.config.context} less {config.answer_tokens}"
        )
    examples, held_out = split_held_out(examples, config.held_out, config.problems)
    for part in config.rewards:
        part.open(Models(data / config.model, data / config.scorer, tokenizer))
    folder = (log.scratch or log.parts) / "rollouts"
    ledger = Ledger(folder, config.rewards, config.environment.adds) if config.keep_rollouts else None
    learning = Learning(config, model, tokenizer, examples, ledger, data / config.scorer, held_out)

    def seen(step: int) -> list[float]:
        """What of a step depends on how long the run is: all else follows from the examples and the weights."""
        context = learning.reward_context(step // config.steps_a_rollout)
        return [part.at(context) for part in config.rewards] + config.curriculum.at(context.share)

    given = [tokenizer.to_json(), *examples, *held_out, *files_read(config)]
    scorers = [scorer for part in config.rewards for scorer in part.models]
    scorers += [learning.critic.model] if learning.critic else []
    # a trunk has nothing of the rollouts before it
    trunks = None if ledger else log.trunks(config, config.steps, [model, *scorers], given, seen)
    train(model, config, config.steps, learning.batch_at, log, trunks, learning.components)
    save_model(data / "rl", model, tokenizer)
    if ledger:
        ledger.gather(-(-config.steps // config.steps_a_rollout), data / "rl" / "rollouts.parquet")
    return {"steps": config.steps, "problems": len(examples)}


def files_read(config: RlConfig) -> Iterator[bytes]:
    """Names and contents of all that a user's reward function may read, which trunks depend on; none without one."""
    if any(part.reads for part in config.rewards):
        yield from (
            part for path in hashed_files(Path(FOLDER)) for part in (path.as_posix().encode(), path.read_bytes())
        )
