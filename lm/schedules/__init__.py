"""Schedules: `(step, total steps) -> factor` of the learning rate, in [0, 1]; steps count from 0."""

from lm.schedules.cosine import Cosine
from lm.schedules.infinite import Infinite
from lm.schedules.linear import Linear
from lm.schedules.one_cycle import OneCycle
from lm.schedules.power import Power
from lm.schedules.refined import Refined
from lm.schedules.wsd import Wsd
