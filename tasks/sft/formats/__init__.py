"""How examples are written: `(dialogues, seed) -> dialogues of each`, before they become tokens (base.py).

A format sees the rows of its own source alone, which are of the split that is learned from.
"""

from tasks.sft.formats.flipped import Flipped
from tasks.sft.formats.markers import Markers
from tasks.sft.formats.plain import Plain
from tasks.sft.formats.rationales import Rationales
from tasks.sft.formats.retrieved import Retrieved
