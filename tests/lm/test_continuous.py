"""Texts that join a running batch: each is what generate gives of its prompt alone, whoever writes beside it and since when."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.continuous import ContinuousBatcher, RunningBatch, SamplingRequest, Token
from lm.sampler import generate
from tests.lm.models import toy_model
from tests.processes import PATIENCE

CONTEXT, BUDGET, STOP, ROWS = 128, 12, 21, 3
PROMPTS = [[(5 * length + 3 * place) % 61 for place in range(length)] for length in (1, 3, 15, 17, 30, 60, 90, 127)]


def decided() -> Any:
    """A toy model whose distributions are far from uniform, and that draws STOP once in some tokens."""
    model = toy_model(seed=4, context=CONTEXT, vocab_size=61)
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    return model


MODEL = decided()


class Heard:
    """What was told of one text."""

    def __init__(self, at: int = -1, then: Callable[[], None] = lambda: None) -> None:
        """then: called, by the thread that writes, with the token of this number from 1 on."""
        self.said: list[Token | Exception] = []
        self.done = threading.Event()
        self._at, self._then = at, then

    def __call__(self, token: Token | Exception) -> None:
        self.said.append(token)
        if len(self.said) == self._at:
            self._then()
        if isinstance(token, Exception) or token.last:
            self.done.set()

    def tokens(self) -> list[Token]:
        assert self.done.wait(PATIENCE)
        return [token for token in self.said if isinstance(token, Token)]

    def ids(self) -> list[int]:
        return [token.id for token in self.tokens()]


def wanted(prompt: list[int], tell: Heard, most: int = BUDGET, **more: Any) -> SamplingRequest:
    given = {"temperature": 1.0, "seed": 3, "number": 0, "stops": frozenset({STOP}), **more}
    return SamplingRequest(prompt, min(most, CONTEXT - len(prompt)), on_token=tell, **given)


def alone(one: SamplingRequest, rows: int = ROWS) -> list[int]:
    """What generate writes."""
    [stop] = one.stops
    [made] = generate(MODEL, [one.prompt], one.max_new_tokens, one.temperature, stop, one.seed, rows, [one.number])
    return made.ids


@pytest.fixture(scope="module")
def writer() -> Iterator[ContinuousBatcher]:
    found = ContinuousBatcher(MODEL, ROWS, CONTEXT)
    yield found
    found.close()


asked = st.tuples(
    st.sampled_from(PROMPTS),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 3),
    st.integers(1, 4),
)


@settings(deadline=None, max_examples=12)
@given(st.lists(asked, min_size=1, max_size=10))
def test_a_text_is_what_generate_gives_alone_whoever_joins_and_when(writer: ContinuousBatcher, mix: list[Any]) -> None:
    """Each begins when the one before it has so many tokens, or ends, so that it meets others half way."""
    every: list[SamplingRequest] = []
    heard: list[Heard] = []

    def begin(place: int) -> None:
        if place < len(every):
            writer.write([every[place]])

    for place, (prompt, temperature, seed, number, at) in enumerate(mix):
        tell = Heard(at, lambda place=place: begin(place + 1))
        heard.append(tell)
        every.append(wanted(prompt, tell, temperature=temperature, seed=seed, number=number))
    begin(0)
    for place, (one, tell) in enumerate(zip(every, heard, strict=True)):
        assert tell.ids() == alone(one)
        if len(tell.said) < mix[place][-1]:  # it ended before the next was to begin
            begin(place + 1)


def test_the_texts_of_a_prompt_are_its_draws_one_after_the_other(writer: ContinuousBatcher) -> None:
    """More of them than there are rows, read at once as far as there is room."""
    heard = [Heard() for _ in range(2 * ROWS + 1)]
    every = [wanted(PROMPTS[3], tell, number=number) for number, tell in enumerate(heard)]
    writer.write(every)
    assert [tell.ids() for tell in heard] == [alone(one) for one in every]
    assert len({tuple(tell.ids()) for tell in heard}) > 2


@pytest.mark.parametrize("length", [96, 97, 98, 99])
def test_a_prompt_that_all_but_fills_a_shorter_context_ends_no_other(length: int) -> None:
    """Of a context of 100: in pieces of 16 the prompt would fill more places than its row has."""
    writer, other, tell = ContinuousBatcher(MODEL, ROWS, 100), Heard(), Heard()
    beside = replace(wanted(PROMPTS[1], other, 70), stops=frozenset({-1}))
    long = replace(wanted(PROMPTS[7][:length], tell), max_new_tokens=100 - length)
    writer.write([beside])
    writer.write([long])
    assert tell.ids() == alone(long) and other.ids() == alone(beside)
    writer.close()


def test_one_row_or_many_and_a_shorter_context_write_the_same_text() -> None:
    one = wanted(PROMPTS[4], Heard())
    for rows, context in ((1, CONTEXT), (5, CONTEXT), (5, 64)):
        writer, tell = ContinuousBatcher(MODEL, rows, context), Heard()
        writer.write([replace(one, on_token=tell)])
        assert tell.ids() == alone(one, rows)
        writer.close()


def test_log_probabilities_are_the_models_own_whatever_the_temperature(writer: ContinuousBatcher) -> None:
    tell, plain = Heard(), Heard()
    writer.write([wanted(PROMPTS[3], tell, temperature=0.5, likeliest=3)])
    writer.write([wanted(PROMPTS[3], plain, temperature=0.5)])
    tokens = tell.tokens()
    assert plain.ids() == tell.ids() and all(token.logp is None and not token.likeliest for token in plain.tokens())
    with torch.no_grad():
        logps = MODEL(torch.tensor([PROMPTS[3] + tell.ids()]))[0, len(PROMPTS[3]) - 1 : -1].log_softmax(-1)
    for token, logps_V in zip(tokens, logps, strict=True):  # fp32 with sums in another order
        assert token.logp == pytest.approx(logps_V[token.id].item(), abs=1e-4)
        assert [index for index, _ in token.likeliest] == logps_V.topk(3).indices.tolist()
        assert [logp for _, logp in token.likeliest] == pytest.approx(logps_V.topk(3).values.tolist(), abs=1e-4)


def test_who_goes_makes_room() -> None:
    writer = ContinuousBatcher(MODEL, 1, CONTEXT)
    second = wanted(PROMPTS[2], Heard(), stops=frozenset({-1}))
    first = wanted(PROMPTS[1], Heard(2, lambda: setattr(first, "cancelled", True)), 100, stops=frozenset({-1}))
    waits = wanted(PROMPTS[2], Heard(), cancelled=True)
    for one in (first, waits, second):
        writer.write([one])
    assert second.on_token.ids() == alone(second, 1)  # type: ignore[attr-defined]
    assert len(first.on_token.said) == 2 and not waits.on_token.said  # type: ignore[attr-defined]
    writer.close()


def test_what_goes_wrong_is_told_and_the_next_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, step = ContinuousBatcher(MODEL, 1, CONTEXT), RunningBatch.step
    error = RuntimeError("out of memory")

    def failing(self: RunningBatch) -> None:
        monkeypatch.setattr(RunningBatch, "step", step)
        raise error

    monkeypatch.setattr(RunningBatch, "step", failing)
    running, waiting = Heard(), Heard()
    writer.write([wanted(PROMPTS[1], running), wanted(PROMPTS[1], waiting)])
    assert running.tokens() == waiting.tokens() == [] and running.said == waiting.said == [error]
    after = wanted(PROMPTS[1], Heard())
    writer.write([after])
    assert after.on_token.ids() == alone(after, 1)  # type: ignore[attr-defined]
    writer.close()


@pytest.mark.parametrize(("prompt", "most"), [([], 4), ([1] * CONTEXT, 1), ([1], 0), ([1], CONTEXT)])
def test_what_does_not_fit_is_refused(writer: ContinuousBatcher, prompt: list[int], most: int) -> None:
    with pytest.raises(ValueError, match=f"{len(prompt)} tokens and {most} more do not fit a context of {CONTEXT}"):
        writer.write([SamplingRequest(prompt, most, 0.0, 0, 0, frozenset(), Heard())])
