"""Schedules: `(step, total steps) -> factor` of the learning rate, in [0, 1]; steps count from 0."""

from lm.schedules.cosine import Cosine
from lm.schedules.wsd import Wsd
