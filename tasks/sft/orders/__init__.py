"""Which conversation of a source comes when: `(lengths_N, levels_N, places, seed) -> indices`, of as many places as are asked
for.

Every pass over the N conversations has each of them once. lengths are in tokens, levels what the rows say, NaN where they say
nothing. An order depends on nothing else, and the first of more places are those of fewer.
"""

from tasks.sft.orders.ascending import Ascending
from tasks.sft.orders.shuffled import Shuffled
