"""Advantages: `(rewards_GS, mask_GS, baseline_G) -> advantages_GS` for G problems with S samples each.

mask is 0 where the verifier failed: such a sample has advantage 0 and no influence on the others. By its `baseline` a method
says what it is given as baseline_G: nothing, the reward of the greedy answer to each problem, NaN where the verifier failed on
it, or what a critic expects of each problem; such a one then tells an advantage for each token (`gae`).
"""

from tasks.rl.advantages.best_and_worst import BestAndWorst
from tasks.rl.advantages.best_of_k import BestOfK
from tasks.rl.advantages.gae import Gae
from tasks.rl.advantages.grpo import Grpo
from tasks.rl.advantages.remax import Remax
from tasks.rl.advantages.rloo import Rloo
