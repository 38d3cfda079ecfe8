"""Losses of reward models: `(chosen_PM, rejected_PM) -> loss_PM`, of the scores that M heads give the two answers of P pairs.

The step's loss is the mean over its pairs and the heads that learn from each (tasks/reward/step.py). Under each loss the
probability that the chosen answer is the better one is the sigmoid of the difference of the scores.
"""

from tasks.reward.losses.bradley_terry import BradleyTerry
from tasks.reward.losses.pointwise import Pointwise
