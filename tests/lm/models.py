"""A toy model and tokenizers for tests, made by code, and what its compiled blocks give."""

from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from lm.block import Block
from lm.model import Decoder, ModelConfig
from lm.tokenizer import Tokenizer
from tasks.tokenize.methods.bytes import Bytes


def toy_tokenizer() -> Tokenizer:
    return Bytes()(iter(()), Path())


def toy_model(seed: int = 0, **shape: object) -> Decoder:
    defaults = {"vocab_size": 261, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_width": 48, "context": 48}
    return Decoder(ModelConfig.model_validate({**defaults, **shape}), seed)


def plain_and_compiled(model: Decoder, work: Callable[[], object]) -> int:
    """How many graphs the blocks are compiled to; asserts that `work` leaves the gradients in the weights that it leaves without
    that."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = []
    for run in (Block.__call__, torch.compile(Block.__call__, backend="aot_eager", fullgraph=True)):
        model._run = run
        model.zero_grad()
        work()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, plain in found[0].items():
        torch.testing.assert_close(found[1][name], plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()), msg=name)
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def other_tokenizer() -> tokenizers.Tokenizer:
    """Somebody else's, in the manner of GPT-2: one special token, after all others, put around a text, and truncation."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(["the cat sat on the mat, 12 + 34 = 46\n"] * 20, trainer)
    inner.add_special_tokens(["<|endoftext|>"])
    end = ("<|endoftext|>", inner.token_to_id("<|endoftext|>"))
    inner.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[end])
    inner.enable_truncation(16)
    return inner
