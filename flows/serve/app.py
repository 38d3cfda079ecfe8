"""OpenAI's API over one model: /v1/models, /v1/chat/completions and /v1/completions."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.serve.generation import Piece, decode_with_strategy, stream_pieces
from flows.serve.requests import Chat, Completion, GenerationRequest, Refusal, generation_request, parse_body
from flows.serve.shapes import LAST_EVENT, Shape, event
from lm.continuous import ContinuousBatcher
from lm.model import Decoder
from lm.tokenizer import Tokenizer

# A prompt of a million tokens of four characters fits
MOST_BYTES = 8 * 2**20


class Served:
    """One model under its name, and who writes with it."""

    def __init__(self, name: str, model: Decoder, tokenizer: Tokenizer, rows: int, context: int) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.vocab_size = model.config.vocab_size
        self.writer = ContinuousBatcher(model, rows, context)
        self.ends = frozenset({tokenizer.eos_id, *self._end()})

    def _end(self) -> list[int]:
        try:
            return [self.tokenizer.end_id]
        except ValueError:  # a template that ends no answer: then the end of a document ends it
            return []

    def card(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "tokenmill",
            "max_model_len": self.writer.context,
        }

    def parse_request(self, text: bytes, kind: type[Completion] | type[Chat]) -> GenerationRequest:
        """What a body asks for. Raises Refusal."""
        return generation_request(
            parse_body(text, kind, self.name), self.tokenizer, self.vocab_size, self.writer.context
        )


class Guard:
    """Answers nobody who came by a foreign host name, as a page does that makes its own name lead here, or has not the key."""

    def __init__(self, app: ASGIApp, names: set[str], key: str | None) -> None:
        self._app, self._names, self._key = app, names, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").decode("latin-1") not in self._names:
            return await error_response(Refusal("this host name is not served", status=403))(scope, receive, send)
        given = headers.get(b"authorization", b"")
        if self._key is not None and not hmac.compare_digest(given, b"Bearer " + self._key.encode()):
            refusal = Refusal("the key is missing or wrong: Authorization: Bearer <key>", None, "invalid_api_key", 401)
            return await error_response(refusal)(scope, receive, send)
        await self._app(scope, receive, send)


def error_response(refusal: Refusal) -> JSONResponse:
    """The answer of a refusal."""
    return JSONResponse(refusal.body(), refusal.status)


def app_of(served: Served, names: set[str], key: str | None) -> ASGIApp:
    """The application. names: what `Host` may be; key: None asks for none."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        served.writer.close()

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [served.card()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != served.name:
            raise Refusal(f"there is no model {request.path_params['name']!r}", "model", "model_not_found", 404)
        return JSONResponse(served.card())

    routes = [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", partial(complete, served=served, kind=Chat), methods=["POST"]),
        Route("/v1/completions", partial(complete, served=served, kind=Completion), methods=["POST"]),
    ]
    handlers = {Refusal: _refuse, HTTPException: _no_such}
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), names, key)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error_response(error)


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return error_response(Refusal(said, None, "unknown_url", error.status_code))


async def complete(request: Request, served: Served, kind: type[Completion] | type[Chat]) -> Response:
    """The answer to a request for a text. Raises Refusal."""
    text = await _body(request)
    # a long prompt takes a while to encode, and others are being answered
    asked = await asyncio.to_thread(served.parse_request, text, kind)
    shape = Shape(asked, served.name, served.tokenizer, kind is Chat)
    if asked.strategy is None:
        pieces = stream_pieces(asked, served.writer, served.tokenizer, served.ends)
    else:
        pieces = decode_with_strategy(asked.strategy, asked, served.writer, served.tokenizer, served.ends)
    if asked.stream:
        return StreamingResponse(
            _events(shape, pieces), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
    reading = asyncio.ensure_future(_all(pieces))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(shape.whole(await reading)) if reading.done() else Response(status_code=499)
    finally:
        leaving.cancel()
        reading.cancel()


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for some in request.stream():
        found += some
        if len(found) > MOST_BYTES:
            raise Refusal(f"the body is larger than {MOST_BYTES} bytes", status=413)
    return bytes(found)


async def _all(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


async def _left(request: Request) -> None:
    """Return once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(shape: Shape, pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
    """Server-sent events of a text as it is written. What goes wrong by then is an event, too."""
    for chunk in shape.first():
        yield event(chunk)
    try:
        async for piece in pieces:
            yield event(shape.chunk(piece))
    except Refusal as refusal:
        yield event(refusal.body())
        return
    for chunk in shape.last():
        yield event(chunk)
    yield LAST_EVENT
