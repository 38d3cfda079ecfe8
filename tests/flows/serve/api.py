"""A server of a toy model in this process, and OpenAI's own client of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import torch
import uvicorn

from flows.serve.__main__ import HOST, listening
from flows.serve.app import Served, app_of
from flows.servers.answers import names_of
from lm.model import Decoder
from lm.tokenizer import Tokenizer
from tests.lm.models import toy_model, toy_tokenizer
from tests.ports import free_port
from tests.processes import PATIENCE

KEY = "correct horse battery"
NAME, CONTEXT, ROWS = "toy", 128, 3


def decided(tokenizer: Tokenizer) -> Decoder:
    """A toy model whose distributions are far from uniform, which writes letters and digits, and at times ends."""
    model = toy_model(seed=4, context=CONTEXT, vocab_size=tokenizer.vocab_size, tied=False)
    likely = [*tokenizer.encode("abcdefgh 0123456789\N{EURO SIGN}"), tokenizer.end_id]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[likely] = torch.randn(len(likely), 32, generator=torch.Generator().manual_seed(0)) * 0.4
        model.embedding.weight.mul_(8)
    return model


@contextmanager
def served(model: Decoder, tokenizer: Tokenizer, key: str | None = KEY) -> Iterator[str]:
    """The address of the API while the block runs."""
    port = free_port()
    app = app_of(Served(NAME, model, tokenizer, ROWS, CONTEXT), set(names_of(port)), key)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    door = listening(port)
    thread = threading.Thread(target=server.run, args=([door],), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        door.close()
        assert not thread.is_alive()


def client(url: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=PATIENCE)


def toy() -> tuple[Decoder, Tokenizer]:
    tokenizer = toy_tokenizer()
    return decided(tokenizer), tokenizer
