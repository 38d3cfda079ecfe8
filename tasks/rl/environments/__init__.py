"""What answers a policy while it writes: `(sample, tokenizer, prompts, most) -> what was written to each prompt`.

An environment adds tokens of its own to an answer, its results. Those are in what the model reads on from, and in nothing that
it learns from: `own` of a Written tells them apart, and losses, divergences, advantages' weights, entropies, the check of the
sampler, lengths and repetitions are of the model's own tokens alone.
"""

from tasks.rl.environments.calculator import Calculator
from tasks.rl.environments.python import Python
from tasks.rl.environments.single_turn import SingleTurn
