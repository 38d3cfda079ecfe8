"""Averages of weights: `(step, total steps) -> share`, the weight that the model after this step gets in the mean so far.

A share of 1 starts the mean anew, 0 leaves it; the mean at the end is the model.
"""

from lm.averages.ema import Ema
from lm.averages.last import Last
from lm.averages.lawa import Lawa
from lm.averages.tail_blend import TailBlend
