"""Problem sets: each serves SFT, RL and evaluation, and its verifier is both the reward and the score."""

from lm.problems.arithmetic import Arithmetic
from lm.problems.gsm8k import Gsm8k
