"""What tokenize takes on disk: tokens, the held-out documents, and hashes of their text while it looks for it in training."""

from tasks.about.sections import Sections
from tasks.about.text import PACKED, text_bytes
from tasks.about.training import TOKENIZER_ROW
from tasks.about.work import StageNeeds

# Bytes of text a token, at the least: 2.4 with 2,048 tokens of BPE on code, 4.5 with 32,768 on English.
BYTES_A_TOKEN = 2.2
# Of each byte of held-out text: a 64-bit hash.
GRAM_KEY = 8


def needs(sections: Sections) -> StageNeeds:
    """Raises ConfigError where a source cannot list its files."""
    config, text, vocabulary = sections["tokenize"], text_bytes(sections), sections.corpus_vocabulary()
    tokens = text / (1.0 if config.method.name == "bytes" else BYTES_A_TOKEN)
    ids = tokens * (2 if vocabulary <= 1 << 16 else 4)
    output = ids + PACKED * text * config.held_out_fraction + TOKENIZER_ROW * vocabulary
    return StageNeeds(output, output + GRAM_KEY * text * config.held_out_fraction)
