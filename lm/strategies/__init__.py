"""How answers are found with a model whose weights are given: `(model, asked) -> what was decoded` (base.py), and what it
took."""

from lm.strategies.beam import Beam
from lm.strategies.best_of import BestOf
from lm.strategies.budget_forcing import BudgetForcing
from lm.strategies.by_difficulty import ByDifficulty
from lm.strategies.greedy import Greedy
from lm.strategies.majority import Majority
from lm.strategies.proxy_tuned import ProxyTuned
from lm.strategies.revise import Revise
from lm.strategies.sample import Sample
from lm.strategies.speculative import Speculative
from lm.strategies.tree import Tree
