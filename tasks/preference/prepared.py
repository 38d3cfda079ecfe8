"""What training reads, made once before its first step: the pairs, and what the start model makes of their answers. It stands
in the stage's scratch until the stage is done, so that one that was killed has paid for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm.inputs.hashed import hashed_files
from lm.model import Decoder
from lm.pairs.base import SourceInputs
from lm.pairs.collect import collect_pairs
from lm.pairs.table import SIDES, PairTable, read_pairs
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.core.log import Log
from tasks.core.tables import write_table
from tasks.preference.logps import Progress, answer_logps, side_logps

SLOT = "preference.pairs"


def prepared(config: Any, model: Decoder, tokenizer: Tokenizer, log: Log) -> PairTable:
    """What stands in the scratch, or is made now and put there. Raises ConfigError where there is no pair to learn from."""
    if log.scratch and (found := read_pairs(log.scratch)) is not None:
        return found
    folder = Path(config.folder)
    given = SourceInputs(
        SLOT, folder, lambda: hashed_files(folder), config.problems, model, tokenizer, config.seed,
        lambda done, total: log.progress(done, total, "problem"),
    )  # fmt: skip
    pairs = collect_pairs(config.pairs, given, config.held_out_fraction, config.query)
    pairs = with_reference(pairs, config, model, tokenizer, log)
    if config.loss.needs_point:
        pairs = with_point(pairs, model, tokenizer, log)
    if log.scratch:
        pairs.write(log.scratch, write_table)
    return pairs


def with_reference(pairs: PairTable, config: Any, model: Decoder, tokenizer: Tokenizer, log: Log) -> PairTable:
    """Log-probabilities of the answers under the start model: of pairs held out in any case, of the others where the loss
    compares with them."""
    known = sorted(pairs.places(True) + (pairs.places(False) if config.loss.needs_reference else []))
    for side in SIDES:
        logps = side_logps(model, pairs, side, known, tokenizer.pad_id, answers_of(log))
        pairs = pairs.with_column(f"reference_{side}", spread(known, logps.tolist(), len(pairs)), pa.float32())
    return pairs


def with_point(pairs: PairTable, model: Decoder, tokenizer: Tokenizer, log: Log) -> PairTable:
    """The other row of each pair that is learned from, and log-probabilities of its answers behind that row's prompt."""
    learned, context = pairs.places(False), model.config.context
    following = [learned[n] for n in others(pairs.table["prompt"].take(learned).to_pylist())]
    pairs = pairs.with_column("other", spread(learned, following, len(pairs)), pa.int64())
    prompts = pairs.lengths("prompt")[following]
    for side in SIDES:
        lengths = np.minimum(prompts + pairs.lengths(side)[learned], context).tolist()

        def crossed(number: int, pairs: PairTable = pairs, side: str = side) -> Conversation:
            return pairs.swapped_conversation(side, context, learned[number])

        logps = answer_logps(model, lengths, crossed, tokenizer.pad_id, answers_of(log))
        pairs = pairs.with_column(f"other_{side}", spread(learned, logps.tolist(), len(pairs)), pa.float32())
    return pairs


def answers_of(log: Log) -> Progress:
    """What tells a log how many answers the start model has read."""
    return lambda done, total: log.progress(done, total, "answer")


def spread(places: list[int], values: list[Any], rows: int) -> list[Any]:
    """A column with these values at these places, and None elsewhere."""
    found: list[Any] = [None] * rows
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def others(prompts: list[str]) -> list[int]:
    """The place of the next other prompt of each, around the end; its own where all are the same."""
    count = len(prompts)
    following = list(range(count))
    for place in reversed(range(2 * count)):  # twice round: what the end needs of the front is known the second time
        here, after = place % count, (place + 1) % count
        following[here] = following[after] if prompts[after] == prompts[here] else after
    return [here if prompts[after] == prompts[here] else after for here, after in enumerate(following)]
