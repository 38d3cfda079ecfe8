"""What training reads, made once before its first step: the pairs, and what the start model makes of their answers. It stands
in the stage's scratch until the stage is done, so that one that was killed has paid for it."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm.config import ConfigError
from lm.model import Decoder
from lm.problems.example import unit_hash
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.core.log import Log
from tasks.preference.logps import answer_logps
from tasks.preference.pairs.base import EXCERPT, Given, Pair, Rejected
from tasks.preference.table import PAIRS, QUARANTINE, SIDES, Pairs, read_pairs

Row = dict[str, Any]
SEED_APART = 7919  # two sources that sample do not draw the same answers


def prepared(config: Any, model: Decoder, tokenizer: Tokenizer, log: Log) -> Pairs:
    """What stands in the scratch, or is made now and put there. Raises ConfigError where there is no pair to learn from."""
    if log.scratch and (found := read_pairs(log.scratch)):
        return found
    pairs = gathered(config, model, tokenizer, log)
    pairs = with_reference(pairs, config, model, tokenizer, log)
    if config.loss.needs_point:
        pairs = with_point(pairs, model, tokenizer, log)
    if log.scratch:
        pairs.write(log.scratch)
    return pairs


def gathered(config: Any, model: Decoder, tokenizer: Tokenizer, log: Log) -> Pairs:
    """Pairs of all sources, in their order, and what is none of them or does not fit the context."""
    rows, left_out = list[Row](), list[Row]()

    def progress(done: int, total: int) -> None:
        log.progress(done, total, "problem")

    for place, source in enumerate(config.pairs):
        seed = config.seed + SEED_APART * place
        given = Given(Path(config.folder), config.problems, model, tokenizer, seed, progress)
        for found in source(given):
            row = found if isinstance(found, Rejected) else row_of(found, config, tokenizer, model.config.context)
            if isinstance(row, Rejected):
                left_out.append({"source": source.name, **vars(row)})
            else:
                rows.append({"source": source.name, **row})
    if all(row["held_out"] for row in rows):
        reasons = Counter(row["reason"] for row in left_out).most_common(3)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons)
        held_out = f"{len(rows)} of held_out_fraction" if rows else ""
        raise ConfigError(f"preference.pairs: not one pair to learn from ({'; '.join(filter(None, (why, held_out)))})")
    return Pairs(pa.Table.from_pylist(rows, PAIRS), pa.Table.from_pylist(left_out, QUARANTINE))


def row_of(pair: Pair, config: Any, tokenizer: Tokenizer, context: int) -> Row | Rejected:
    """The pair as a row. All pairs of one prompt are on one side of what is held out."""
    longest = len(pair.prompt_ids) + max(len(pair.chosen), len(pair.rejected))
    if longest > context:
        return Rejected(
            pair.where, "too_long", f"{longest} tokens, and the context has {context}: {pair.prompt}"[:EXCERPT]
        )
    held_out = unit_hash(f"preference:{pair.prompt}") < config.held_out_fraction
    texts = {"chosen": tokenizer.decode(pair.chosen), "rejected": tokenizer.decode(pair.rejected)}
    every = {"prompt": pair.prompt_ids, "chosen": pair.chosen, "rejected": pair.rejected}
    ids = {f"{name}_ids": np.array(some, np.int32) for name, some in every.items()}
    return {"prompt": pair.prompt, **texts, **ids, "held_out": held_out}


def with_reference(pairs: Pairs, config: Any, model: Decoder, tokenizer: Tokenizer, log: Log) -> Pairs:
    """Log-probabilities of the answers under the start model: of pairs held out in any case, of the others where the loss
    compares with them."""
    known = sorted(pairs.places(True) + (pairs.places(False) if config.loss.needs_reference else []))
    prompts = pairs.lengths("prompt")[known]
    for side in SIDES:
        lengths, read = prompts + pairs.lengths(side)[known], partial(pairs.conversation, side)
        logps = of_start(model, known, lengths.tolist(), read, tokenizer, log)
        pairs = pairs.with_column(f"reference_{side}", spread(known, logps, len(pairs)), pa.float32())
    return pairs


def with_point(pairs: Pairs, model: Decoder, tokenizer: Tokenizer, log: Log) -> Pairs:
    """The other row of each pair that is learned from, and log-probabilities of its answers behind that row's prompt."""
    learned, context = pairs.places(False), model.config.context
    following = [learned[n] for n in others(pairs.table["prompt"].take(learned).to_pylist())]
    pairs = pairs.with_column("other", spread(learned, following, len(pairs)), pa.int64())
    prompts = pairs.lengths("prompt")[following]
    for side in SIDES:
        lengths = np.minimum(prompts + pairs.lengths(side)[learned], context)
        read = partial(pairs.crossed, side, context)
        logps = of_start(model, learned, lengths.tolist(), read, tokenizer, log)
        pairs = pairs.with_column(f"other_{side}", spread(learned, logps, len(pairs)), pa.float32())
    return pairs


def of_start(
    model: Decoder,
    places: list[int],
    lengths: list[int],
    read: Callable[[int], Conversation],
    tokenizer: Tokenizer,
    log: Log,
) -> list[float]:
    """Log-probabilities of answers, those of these rows, under the model that the stage begins with."""

    def progress(done: int, total: int) -> None:
        log.progress(done, total, "answer")

    return answer_logps(model, lengths, lambda n: read(places[n]), tokenizer.pad_id, progress).tolist()


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
