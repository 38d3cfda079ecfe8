"""Mixers, the part of a layer in which tokens see each other: `build(shape) -> module`, which maps (x_BTD, context) to y_BTD.

Without context.state all tokens of a row at once (the parallel form); with it the tokens that follow those kept in the state,
which is brought up to date (the stepwise form). Both give the same numbers, no token sees one after it, or, without a state,
one of another document. lm/mixers/base.py has the contract, and tests hold every mixer of this room to it.
"""

from lm.mixers.attention import Attention
from lm.mixers.fast_forgetful import FastForgetful
from lm.mixers.gated_blocks import GatedBlocks
from lm.mixers.hashed_buckets import HashedBuckets
from lm.mixers.hyena import Hyena
from lm.mixers.minimal_rnn import MinimalRNN
from lm.mixers.sliding_window import SlidingWindow
from lm.mixers.state_space import StateSpace
from lm.mixers.strided_blocks import StridedBlocks
from lm.mixers.ttt_linear import TTTLinear
