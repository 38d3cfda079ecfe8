"""The pieces of all texts of a request, as they are written."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from flows.serve.requests import GenerationRequest, Refusal
from lm.continuous import ContinuousBatcher, SamplingRequest, Token
from lm.model import Decoder
from lm.pieces import Pieces
from lm.strategies.base import DecodedAnswer, Strategy
from lm.strategies.base import PromptBatch as Prompts
from lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """What came of the text of this number: `tokens`, and the text that is known since the piece before. finish: why it ended,
    "stop" at a token or text that ends it, "length" for want of room; None of one that goes on."""

    number: int
    text: str
    tokens: list[Token]
    finish: str | None


def seed_of(asked: GenerationRequest) -> int:
    """The seed that was asked for, else any."""
    return secrets.randbits(63) if asked.seed is None else asked.seed


def finish_reason(ended: bool) -> str:
    """Why a text goes on no further."""
    return "stop" if ended else "length"


async def stream_pieces(
    asked: GenerationRequest, writer: ContinuousBatcher, tokenizer: Tokenizer, ends: frozenset[int]
) -> AsyncIterator[Piece]:
    """Pieces of every text, as they come: `choices` of the first prompt, then those of the next. What is not read to its end is
    no longer written. Raises Refusal where the model fails."""
    told: asyncio.Queue[tuple[int, Token | Exception]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def teller(number: int) -> Callable[[Token | Exception], None]:
        def tell(token: Token | Exception) -> None:  # from the thread that writes
            loop.call_soon_threadsafe(told.put_nowait, (number, token))

        return tell

    groups: list[list[SamplingRequest]] = []
    for place, prompt in enumerate(asked.prompts):
        room = writer.context - len(prompt)
        # where none is asked for, each prompt has one of its own, so that one that is asked twice has two answers
        seed = seed_of(asked)
        groups.append([
            SamplingRequest(
                prompt, min(asked.max_tokens or room, room), asked.temperature, seed, choice, ends,
                teller(place * asked.choices + choice), asked.likeliest, top_p=asked.top_p, min_p=asked.min_p,
            )
            for choice in range(asked.choices)
        ])  # fmt: skip
    every = [one for group in groups for one in group]
    texts = [Pieces(tokenizer, asked.stops) for _ in every]
    waiting: dict[int, list[Token]] = {number: [] for number in range(len(every))}
    try:
        for group in groups:
            writer.write(group)
        while waiting:
            number, token = await told.get()
            if isinstance(token, Exception):
                raise Refusal(f"the model failed: {' '.join(str(token).split())}", status=500)
            if number not in waiting:  # it went on for a step or two behind a text that stopped it
                continue
            said = texts[number].add(token.id) + (texts[number].end() if token.last else "")
            ended = texts[number].stopped or token.id in ends
            waiting[number].append(token)
            if token.last or texts[number].stopped:
                every[number].cancelled = True
                yield Piece(number, said, waiting.pop(number), finish_reason(ended))
            elif said:
                yield Piece(number, said, waiting[number], None)
                waiting[number] = []
    finally:
        for one in every:
            one.cancelled = True


async def decode_with_strategy(
    strategy: Strategy, asked: GenerationRequest, writer: ContinuousBatcher, tokenizer: Tokenizer, ends: frozenset[int]
) -> AsyncIterator[Piece]:
    """A piece for each choice: the answer that a strategy finds, whose draws are of the seed and the choice's number. Raises
    Refusal where it cannot be done with this model, or the model fails."""
    (prompt,) = asked.prompts
    room = writer.context - len(prompt)
    seed = seed_of(asked)
    names = [str(choice) for choice in range(asked.choices)]
    given = Prompts(tokenizer, [prompt] * asked.choices, names, min(asked.max_tokens or room, room), seed)

    def decode(model: Decoder) -> list[DecodedAnswer]:
        strategy.check(given.max_new_tokens)
        return strategy(model, given)

    try:
        found = await asyncio.wrap_future(writer.do(decode))
    except ValueError as error:  # what a strategy refuses is a ConfigError, which is one
        raise Refusal(f"strategy: {' '.join(str(error).split())}", "strategy") from None
    except Exception as error:
        raise Refusal(f"the model failed: {' '.join(str(error).split())}", status=500) from None
    for number, answer in enumerate(found):
        pieces, said, tokens = Pieces(tokenizer, asked.stops), "", list[Token]()
        for place, token in enumerate(answer.ids, 1):
            tokens.append(Token(token, place == len(answer.ids)))
            said += pieces.add(token) + (pieces.end() if tokens[-1].last else "")
            if pieces.stopped:
                break
        ended = pieces.stopped or bool(tokens and tokens[-1].id in ends)
        yield Piece(number, said, tokens, finish_reason(ended))
