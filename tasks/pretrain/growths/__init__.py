"""Growths of the model within the run: `depth(layers, step, steps)`, which blocks take part in a step, and `grown(layers, step,
steps)`, what becomes of them before it (lm/depth.py).

staged and apollo are Growths: stages, each with more layers than the one before, the last with all. A v_cycle goes down and up.
"""

from tasks.pretrain.growths.apollo import Apollo
from tasks.pretrain.growths.staged import Staged
from tasks.pretrain.growths.v_cycle import VCycle
from tasks.pretrain.growths.whole import Whole
