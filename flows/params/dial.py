"""A preset of one number: from the depth of a model its width, heads, batch, rates, decay and horizon, by stated rules.

The rules are nanochat's (scripts/base_train.py, early 2026), with presets/gpu-124m.yaml, which is a depth of 12, in the place
of its reference. Each is an expression here and a comment in the file that is written. None was tuned here.
"""

import math
from pathlib import Path
from string import Template
from typing import NamedTuple

from lm.config import ConfigError

FILES = Path(__file__).parent / "dial_files"
ASPECT = 64  # nanochat's aspect_ratio: width a layer
WIDE_HEAD, HEAD, FEWEST_HEADS = 128, 64, 4
TOKENS_A_WEIGHT = 20  # Hoffmann et al. 2022, arXiv:2203.15556; nanochat takes 12
BATCH_EXPONENT = 0.383  # of the horizon: Bergsma et al. 2025, Power Lines, arXiv:2505.13738
FEWEST_STEPS = 200
# From here on a model is for text of one's own and a large vocabulary; below, for the laptop's
OWN_TEXT = 8
SHALLOWEST, DEEPEST = 2, 64


class Reference(NamedTuple):
    """presets/gpu-124m.yaml."""

    depth: int = 12
    width: int = 768
    tokens_per_step: int = 2**19
    lr: float = 0.0018
    adamw_lr: float = 0.0036
    weight_decay: float = 0.1


REFERENCE = Reference()


class DepthSettings(NamedTuple):
    """What follows from a depth. weights: of the matrices of all layers and of the output head, by which the horizon goes."""

    depth: int
    width: int
    heads: int
    ffn_width: int
    vocab_size: int
    context: int
    weights: int
    tokens: int
    tokens_per_step: int
    lr: float
    adamw_lr: float
    weight_decay: float

    @property
    def steps(self) -> int:
        """Updates of pretraining."""
        return self.tokens // self.tokens_per_step


def heads_of(width: int) -> int:
    """Heads of 128, nanochat's, where these divide the width and are four at least, else of 64."""
    return width // (WIDE_HEAD if width % WIDE_HEAD == 0 and width // WIDE_HEAD >= FEWEST_HEADS else HEAD)


def ffn_width_of(width: int) -> int:
    """8/3 of the width, in steps of 128: three matrices of SwiGLU have the weights of two of 4 times the width."""
    return -(-8 * width // (3 * 128)) * 128


def weights_of(depth: int) -> int:
    """Numbers of the matrices of all layers and of the output head: what nanochat's horizon is counted by."""
    width = ASPECT * depth
    return depth * (4 * width**2 + 3 * width * ffn_width_of(width)) + vocabulary_of(depth) * width


def vocabulary_of(depth: int) -> int:
    """2^15, nanochat's, or the laptop's, whose text is small."""
    return 32768 if depth >= OWN_TEXT else 2048


def batch_of(tokens: int) -> int:
    """Tokens of a step, a power of two: 2^19 at the reference's horizon, and growing with its 0.383rd power; no more than leave
    200 steps."""
    horizon = TOKENS_A_WEIGHT * weights_of(REFERENCE.depth)
    exponent = math.log2(REFERENCE.tokens_per_step) + BATCH_EXPONENT * math.log2(tokens / horizon)
    return int(2 ** min(round(exponent), math.floor(math.log2(tokens / FEWEST_STEPS))))


def settings_for_depth(depth: int, tokens: int | None = None) -> DepthSettings:
    """All that follows from the depth, and from the tokens where they are given. Raises ConfigError for a depth or a number of
    tokens that no model is made of."""
    if not SHALLOWEST <= depth <= DEEPEST:
        raise ConfigError(f"DEPTH: {depth} is not from {SHALLOWEST} to {DEEPEST}")
    width, context = ASPECT * depth, 1024 if depth >= OWN_TEXT else 256
    horizon = TOKENS_A_WEIGHT * weights_of(depth) if tokens is None else tokens
    if horizon < FEWEST_STEPS * context:
        raise ConfigError(f"TOKENS: {tokens} are less than {FEWEST_STEPS} steps of a sequence of {context}")
    batch = batch_of(horizon)
    narrow = math.sqrt(REFERENCE.width / width)
    larger = math.sqrt(batch / REFERENCE.tokens_per_step)
    shorter = TOKENS_A_WEIGHT * weights_of(REFERENCE.depth) / horizon
    return DepthSettings(
        depth=depth,
        width=width,
        heads=heads_of(width),
        ffn_width=ffn_width_of(width),
        vocab_size=vocabulary_of(depth),
        context=context,
        weights=weights_of(depth),
        tokens=horizon // batch * batch,
        tokens_per_step=batch,
        lr=rounded(REFERENCE.lr * narrow * larger),
        adamw_lr=rounded(REFERENCE.adamw_lr * narrow * larger),
        weight_decay=rounded(REFERENCE.weight_decay * larger * shorter / narrow),
    )


def rounded(number: float) -> float:
    """The number to three digits."""
    return float(f"{number:.3g}")


def text_of(dial: DepthSettings, name: str, given: str) -> str:
    """The preset's file, the rule of each number beside it. given: the words that it was made of."""
    part = REFERENCE.width / dial.width
    numbers = {
        "a_weight": TOKENS_A_WEIGHT,
        "exponent": BATCH_EXPONENT,
        "half": dial.depth // 2,
        "max_bytes": round(4.8 * dial.tokens),
        "held_out": rounded(min(0.05, 1.25e6 / dial.tokens)),
        "sft_lr": rounded(5e-5 * part),
        "rl_lr": rounded(5e-6 * part),
        "distill_lr": rounded(3e-4 * math.sqrt(part)),
    }
    file = FILES / ("own_text.yaml" if dial.depth >= OWN_TEXT else "small.yaml")
    return Template(file.read_text()).substitute(dial._asdict(), **numbers, name=name, given=given)
