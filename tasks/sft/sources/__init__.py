"""Where conversations come from: `(tokenizer, problems, folder, learned) -> Read`, with the tokens of each and what was
refused."""

from tasks.sft.sources.files import Files
from tasks.sft.sources.problems import Problems
