"""Schedules: `(step, total steps) -> factor` of the learning rate, in [0, 1]; steps count from 0. Those of feedback.py give a
follower of one run, since their factors hang on its losses."""

from lm.schedules.accelat import Accelat
from lm.schedules.auto_lrs import AutoLRS
from lm.schedules.cosine import Cosine
from lm.schedules.infinite import Infinite
from lm.schedules.linear import Linear
from lm.schedules.one_cycle import OneCycle
from lm.schedules.power import Power
from lm.schedules.refined import Refined
from lm.schedules.wsd import Wsd
