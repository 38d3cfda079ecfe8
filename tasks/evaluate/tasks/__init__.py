"""What a model is asked beside the problem set, answered by likelihood: `(tokenizer, shape, data) -> items` (base.py)."""

from tasks.evaluate.tasks.choices import Choices
from tasks.evaluate.tasks.needle import Needle
