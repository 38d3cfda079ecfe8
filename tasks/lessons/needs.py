"""What stored targets take on disk."""

from tasks.about.sections import Sections
from tasks.about.work import StageNeeds


def needs(sections: Sections) -> StageNeeds:
    """A file: of every token that is predicted its likeliest tokens and their log-probabilities, before zstd."""
    config, shape = sections["lessons"], sections.start_shape("lessons")
    a_number = 2 if config.numbers == "float16" else 4
    an_id = 2 if shape.vocab_size <= 2**16 else 4
    tokens = config.steps * (config.batch * config.max_new_tokens + config.corpus_sequences * sections.plan_length())
    return StageNeeds(float(tokens * (config.top_k * (an_id + a_number) + a_number + an_id)), 0.0)
