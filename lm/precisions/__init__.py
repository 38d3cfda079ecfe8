"""How the products of a model's matrices are rounded while it trains: `build(name, linear) -> linear`, as in lm/linears, whose
contract they keep. base.py has the switchboard, and tests hold every choice to it."""

from lm.precisions.coat import Coat
from lm.precisions.int4 import BitSplit
from lm.precisions.jetfire import Jetfire
from lm.precisions.mus import MuS
from lm.precisions.none import Unrounded
