"""Toys of any parts, for what must hold of every mixer, feed-forward layer and norm."""

from typing import Any, Literal, get_args, get_origin

import torch
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from lm import embeddings, feed_forwards, mixers, norms
from lm.config import Config, methods_of
from lm.model import Cache, Decoder
from tests.lm.models import toy_model

MIXERS, FEED_FORWARDS, NORMS, EMBEDDINGS = (methods_of(r) for r in (mixers, feed_forwards, norms, embeddings))
# fp32 with sums in another order, of values of the order of 1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TOKENS = 18


def each_once(*rooms: tuple[type[Config], ...]) -> list[tuple[type[Config], ...]]:
    """As few combinations of a method of each room as have every method: of a smaller room the last has all that are left."""
    return [tuple(room[min(place, len(room) - 1)] for room in rooms) for place in range(max(map(len, rooms)))]


def method_of(draw: st.DrawFn, methods: tuple[type[Config], ...]) -> Config:
    """One of a room's methods, its whole numbers small, so that they bind; 0 where a number may be 0."""
    method = draw(st.sampled_from(methods))
    given_ = {}
    for name, field in method.model_fields.items():
        if field.annotation is int:
            least = 0 if any(getattr(rule, "ge", 1) == 0 for rule in field.metadata) else 1
            given_[name] = draw(st.integers(least, 9), label=name)
        elif field.annotation is bool:
            given_[name] = draw(st.booleans(), label=name)
        elif name != "name" and get_origin(field.annotation) is Literal:
            given_[name] = draw(st.sampled_from(get_args(field.annotation)), label=name)
    try:
        return method(**given_)
    except ValidationError:
        assume(False)
        raise


def with_small_numbers(method: type[Config], number: int) -> Config:
    """A method whose whole numbers are this one, so that they bind; its defaults where it takes no such numbers."""
    small = {name: number for name, field in method.model_fields.items() if field.annotation is int}
    try:
        return method(**small)
    except ValidationError:
        return method()


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """A toy's parts, the same in all layers or in a pattern of two, and its heads."""
    parts: dict[str, Any] = {
        "mixer": method_of(draw, MIXERS).model_dump(),
        "feed_forward": method_of(draw, FEED_FORWARDS).model_dump(),
        "norm": method_of(draw, NORMS).model_dump(),
        "kv_heads": draw(st.sampled_from([1, 2, 4])),
        "qk_norm": draw(st.booleans()),
    }
    if draw(st.booleans()):
        parts["pattern"] = [{}, {"mixer": method_of(draw, MIXERS).model_dump()}]
        if draw(st.booleans()):
            parts["pattern"][1] |= {"depths": {"share": draw(st.sampled_from([0.2, 0.6]))}, "embeddings": []}
    beside = [method_of(draw, (method,)).model_dump() for method in EMBEDDINGS if draw(st.booleans())]
    if beside:
        parts["embeddings"] = beside
        names = [parts["mixer"]["name"], *(layer["mixer"]["name"] for layer in parts.get("pattern", [])[1:])]
        if any(method.model_fields["name"].default in names and not method.has_values for method in MIXERS):
            parts["embeddings"] = [one for one in beside if one["name"] != "value"]
    return parts


def decided(shape: dict[str, Any], seed: int = 1) -> Decoder:
    """A toy whose tokens see each other."""
    return stirred(toy_model(seed=3, **shape), seed).eval()


def stirred(model: Decoder, seed: int = 1) -> Decoder:
    """The model with noise on its weights: at its first ones attention would be nearly even, and a wrong mask hard to see."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)
    return model


def ids_of(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 261, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_gradients_stay_within_documents(mixer: dict[str, Any]) -> None:
    """Of logits within a document every embedding of it has a gradient, and none before it or in another row, to the bit."""
    model = decided({"mixer": mixer, "layers": 1})
    seen: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(ids_of(2, 12), bounds=torch.tensor([0, 5, 12, 24]))
    (gradient,) = torch.autograd.grad(logits[0, 5:].sum(), seen[0])
    assert gradient[0, 5:].abs().min() > 0 and not gradient[0, :5].any() and not gradient[1].any()


@torch.no_grad()
def assert_an_empty_row_begins_at_nothing(mixer: dict[str, Any]) -> None:
    """A row that is counted as empty, as a sampler counts one whose answer has ended, goes on from no state; others from their
    own."""
    model, ids = decided({"mixer": mixer}), ids_of(2, 6)
    cache = Cache(model.config, 2, 12)
    model(ids, cache)
    cache.lengths_B[1] = 0
    found = model(ids, cache)
    torch.testing.assert_close(found[1], model(ids)[1], **CLOSE)
    torch.testing.assert_close(found[0], model(torch.cat((ids, ids), 1))[0, 6:], **CLOSE)


def check_read_together(model: Decoder, counts: list[int], padding: int, following: int) -> None:
    """Texts of so many tokens, read together and filled up, go on in rows of a larger cache, as a sampler has them, and give what
    each gives alone."""
    rows, length = len(counts), max(counts) + padding
    ids = ids_of(rows, length + following)
    small, large = model.new_cache(rows, length), model.new_cache(rows + 1, length + following + 2)
    model.hidden(ids[:, :length], small, counts_B=torch.tensor(counts))
    places = torch.arange(rows).flip(0) + 1
    large.take(places, small, torch.arange(rows))
    assert large.lengths_B.tolist() == [0, *reversed(counts)]
    more = torch.zeros(rows + 1, following, dtype=torch.int64)
    more[places] = ids[:, length:]
    found = torch.cat([model(more[:, step : step + 1], large) for step in range(following)], 1)[places]
    for row, count in enumerate(counts):
        whole = torch.cat((ids[row, :count], ids[row, length:]))
        torch.testing.assert_close(found[row], model(whole[None])[0, count:], **CLOSE)
