"""A toy model and tokenizer for tests, made by code."""

from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer
from tasks.tokenize.methods.bytes import Bytes


def toy_tokenizer() -> Tokenizer:
    return Bytes()(iter(()))


def toy_model(seed: int = 0, **shape: object) -> Decoder:
    defaults = {"vocab_size": 261, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_width": 48, "context": 48}
    return Decoder(ModelConfig.model_validate({**defaults, **shape}), seed)
