"""Reward models: heads on a model learn to score the better of two answers to a prompt higher than the worse."""

from pathlib import Path

from lm.checkpoint import device
from lm.heads import ScalarHeads, put_heads, save_scorer
from lm.inputs.hashed import hashed_files
from lm.model import Decoder
from lm.model_folder import read_model
from lm.pairs.base import SourceInputs
from lm.pairs.collect import collect_pairs
from lm.pairs.table import PairTable, read_pairs
from lm.tokenizer import Tokenizer
from lm.training.loop import train
from lm.training.precision import autocast
from lm.training.prefetch import Prefetcher
from tasks.core.log import Log
from tasks.core.tables import write_table
from tasks.reward.config import RewardConfig
from tasks.reward.held_out import held_out_metrics
from tasks.reward.learning import Learning


def run(config: RewardConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/reward: the model, in whose place none that writes is left, its heads, the pairs that they learned
    from and what was no pair. Loss: mean over the step's pairs and the heads that learn from each."""
    model, tokenizer = read_model(data / config.model)
    model.to(device())
    with autocast(config.precision, device()):
        found = prepared(config, model, tokenizer, log)
    put_heads(model, ScalarHeads(model.config.width, config.members, config.seed))
    learning = Learning(config, model, tokenizer, found)
    if config.rounds > 1:  # a trunk has nothing of what was hard, and what is fetched ahead would not know it
        train(model, config, config.steps, learning.batch_at, log, None, [learning.rounds])
    else:
        trunks = log.trunks(config, config.steps, [model], [tokenizer.to_json()], learning.step_data)
        with Prefetcher(learning.fetch, learning.batch_of, config.steps, device()) as batch_at:
            train(model, config, config.steps, batch_at, log, trunks)
    with autocast(config.precision, device()):
        figures = held_out_metrics(model, found, tokenizer.pad_id)
    save_scorer(data / "reward", model, tokenizer)
    found.write(data / "reward", write_table)
    reasons = found.reasons()
    return {
        "steps": config.steps,
        "pairs": len(found.places(held_out=False)),
        **figures,
        "quarantined": sum(reasons.values()),
        **{f"quarantined_{reason}": count for reason, count in reasons.items()},
    }


def prepared(config: RewardConfig, model: Decoder, tokenizer: Tokenizer, log: Log) -> PairTable:
    """The pairs, made once before the first step: what stands in the scratch, so that a run that was killed has paid for it,
    or is made now and put there. Raises ConfigError where there is no pair to learn from."""
    if log.scratch and (kept := read_pairs(log.scratch)) is not None:
        return kept
    folder = Path(config.folder)
    given = SourceInputs(
        "reward.pairs", folder, lambda: hashed_files(folder), config.problems, model, tokenizer, config.seed,
        lambda done, total: log.progress(done, total, "problem"),
    )  # fmt: skip
    found = collect_pairs(config.pairs, given, config.held_out_fraction, config.query)
    if log.scratch:
        found.write(log.scratch, write_table)
    return found
