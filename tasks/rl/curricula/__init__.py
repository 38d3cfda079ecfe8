"""Which problems a rollout asks: `chooser(examples, seed)` gives a `Chooser`, which is asked for some and told what became of
them.

What it has learned is its state, which is in every checkpoint; what it draws follows from that, the seed and the number of the
rollout, so that a run that was killed goes on in the same bits.
"""

from tasks.rl.curricula.bandit import Bandit
from tasks.rl.curricula.by_entropy import ByEntropy
from tasks.rl.curricula.hints import Hints
from tasks.rl.curricula.shuffled import Shuffled
