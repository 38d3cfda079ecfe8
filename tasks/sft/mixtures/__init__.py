"""Which source each place of a run takes a conversation from: `(weights_S, counts_S, places) -> source_P`.

weights are those of the sources' own parameters, counts how many conversations each has.
"""

from tasks.sft.mixtures.even import Even
from tasks.sft.mixtures.in_turn import InTurn
from tasks.sft.mixtures.proportional import Proportional
