"""Parts of a reward: `(answers, context) -> a value of each answer`, times their weights, added up.

A value that is NaN says that the part could not be told, which makes the answer invalid: it counts for nothing, never for 0.
A part must give an answer the same value whichever other problems are asked with it, and say by `at` what of it depends on how
far the run is, so that runs of other lengths share no trunk where it differs.
"""

from tasks.rl.rewards.agreement import Agreement
from tasks.rl.rewards.correct import Correct
from tasks.rl.rewards.format import Format
from tasks.rl.rewards.function import Function
from tasks.rl.rewards.judge import Judge
from tasks.rl.rewards.length_budget import LengthBudget
from tasks.rl.rewards.model import Model
from tasks.rl.rewards.overlong import Overlong
from tasks.rl.rewards.process import Process
from tasks.rl.rewards.repetition import Repetition
