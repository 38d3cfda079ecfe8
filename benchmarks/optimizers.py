"""What an optimizer buys on your own data: held-out bits per byte after the same tokens, each at the best of four rates.

Run `make pipeline` first: the corpus and the plan are data/tokenize and data/curriculum. A pair is a seed; the baseline is
AdamW, tuned over as many rates.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.contest import Arm, Contest, Metric, Sample
from lm import optimizers
from lm.averages import Last
from lm.config import methods_of
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW
from lm.schedules import Wsd
from lm.tokenizer import Tokenizer
from lm.training.batch import Batch
from lm.training.data.plan import Plan
from lm.training.loop import train
from lm.training.recipe import Recipe
from tasks.core.log import Log
from tasks.evaluate.bits_per_byte import document_bits
from tasks.evaluate.stage import held_out
from tasks.pretrain.objectives import NextToken

DATA = Path("data")
STEPS, SEEDS, TUNING_SEED = 60, (0, 1, 2), 100
# Of the rate a method has by default.
RATES = (1 / 3, 1.0, 3.0, 9.0)
LOSS = Metric("bits_per_byte", "bits/byte")


def contests(threads: int) -> Iterator[Contest]:
    """Every optimizer beside AdamW. Raises ValueError when there is no corpus yet."""
    if not (DATA / "curriculum/plan.parquet").exists():
        raise ValueError(
            f"{DATA / 'curriculum/plan.parquet'}: no such file; `make pipeline` makes the corpus and the plan"
        )
    baseline = best(AdamW)
    for method in methods_of(optimizers):
        if method is not AdamW:
            yield Contest(arm(best(method)), (LOSS,), (arm(baseline),), pairs=len(SEEDS))


def arm(optimizer: Any) -> Arm:
    """A run a call: the first for the gate, which asks for the same number of tokens, then a seed each."""
    seeds = iter((SEEDS[0], *SEEDS))

    def measure() -> Sample:
        return Sample(
            {LOSS.name: bits_per_byte(optimizer, next(seeds))},
            STEPS * Plan(DATA / "curriculum", DATA / "tokenize").batch(0).numel(),
        )

    return Arm(f"{optimizer.name} lr {optimizer.lr:.2g}", measure)


@cache
def best(method: Any) -> Any:
    """The method at the rate with the lowest loss on the tuning seed."""
    tried = [method(lr=method.model_fields["lr"].default * rate) for rate in RATES]
    return min(tried, key=lambda optimizer: bits_per_byte(optimizer, TUNING_SEED))


@cache
def bits_per_byte(optimizer: Any, seed: int) -> float:
    """Bits per byte of the held-out documents, after STEPS steps of the plan; infinite where training diverged."""
    tokenizer, plan = Tokenizer.load(DATA / "tokenize"), Plan(DATA / "curriculum", DATA / "tokenize")
    longest = plan.batch(0).shape[1]
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=96, layers=4, heads=3, kv_heads=1, ffn_width=256, context=longest
    )
    model = Decoder(shape, seed)
    # without a decay, which schedule_free must not have, every other method would be at a loss
    decay = 0.0 if optimizer.name == "schedule_free" else 0.3
    recipe = Recipe(optimizer=optimizer, schedule=Wsd(decay_fraction=decay), average=Last())
    steps = [(seed * STEPS + step) % plan.steps for step in range(STEPS)]

    def batch_at(step: int) -> Batch:
        tokens_BN = plan.batch(steps[step])
        B, T = tokens_BN.shape[0], tokens_BN.shape[1] - 1
        return Batch(B, T, B * T, lambda rows: NextToken()(model, tokens_BN[rows], None, B * T))

    try:
        train(model, recipe, STEPS, batch_at, Log())
    except FloatingPointError:
        return float("inf")
    documents = held_out(DATA / "tokenize", tokenizer)
    bits = document_bits(model, [document.ids for document in documents], lambda *_: None)
    return sum(bits) / sum(len(document.text.encode()) for document in documents)
