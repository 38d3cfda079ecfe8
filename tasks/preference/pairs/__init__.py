"""Sources of pairs: `(given) -> iterator of Pair or Rejected`, read or made once, before the first step (base.py).

The same files, model and seed give the same pairs in the same order. What cannot be used comes with its place and the reason.
"""

from tasks.preference.pairs.files import Files
from tasks.preference.pairs.mined import Mined
from tasks.preference.pairs.self_play import SelfPlay
from tasks.preference.pairs.stepwise import Stepwise
