"""Where conversations come from: `(tokenizer, problems, folder, learned, model, seed) -> Read`, with the tokens of each and
what was refused. model: the one that fine-tuning begins with, None where it is only looked at what would be learned."""

from tasks.sft.sources.attempts import Attempts
from tasks.sft.sources.files import Files
from tasks.sft.sources.own_answers import OwnAnswers
from tasks.sft.sources.problems import Problems
from tasks.sft.sources.subtasks import Subtasks
