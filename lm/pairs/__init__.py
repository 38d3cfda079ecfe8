"""Sources of pairs: `(given) -> iterator of Pair or SkippedRow`, read or made once, before the first step (base.py).

The same files, model and seed give the same pairs in the same order. What cannot be used comes with its place and the reason.
"""

from lm.pairs.files import Files
from lm.pairs.mined import Mined
from lm.pairs.self_play import SelfPlay
from lm.pairs.stepwise import Stepwise
from lm.pairs.weak import Weak
