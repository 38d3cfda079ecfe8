"""Advantages: `(rewards_GS, mask_GS, greedy_G) -> advantages_GS` for G problems with S samples each.

mask is 0 where the verifier failed: such a sample has advantage 0 and no influence on the others. A method whose
`needs_greedy` is true is given the reward of the greedy answer to each problem, NaN where the verifier failed on it.
"""

from tasks.rl.advantages.best_of_k import BestOfK
from tasks.rl.advantages.grpo import Grpo
from tasks.rl.advantages.remax import Remax
from tasks.rl.advantages.rloo import Rloo
