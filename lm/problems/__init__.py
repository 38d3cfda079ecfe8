"""Problem sets: each serves SFT, RL and evaluation, and its verifier is both the reward and the score."""

from lm.problems.arithmetic import Arithmetic
from lm.problems.chains import Chains
from lm.problems.code import Code
from lm.problems.counting import Counting
from lm.problems.gsm8k import Gsm8k
from lm.problems.multiple_choice import MultipleChoice
from lm.problems.segments import Segments
from lm.problems.sorting import Sorting
from lm.problems.word_problems import WordProblems
