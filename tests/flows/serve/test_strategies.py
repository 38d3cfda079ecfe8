"""What a request may say of how its answer is found: filters of a draw, and strategies, each to what the room itself gives."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from lm import strategies
from lm.checkpoint import save_model
from lm.sampler import generate
from lm.strategies import BestOf, Majority
from lm.strategies.base import PromptBatch
from lm.strategies.filters import FilteredRows
from lm.strategies.named import strategy_of
from tests.flows.serve.api import NAME, ROWS, client, served, toy

MODEL, TOKENIZER = toy()
PROMPT = TOKENIZER.chat("1 + 1")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with pytest.MonkeyPatch.context() as patch, served(MODEL, TOKENIZER) as url:
        patch.chdir(tmp_path_factory.mktemp("project"))
        Path("data/assistants/small").mkdir(parents=True)
        save_model(Path("data/assistants/small"), MODEL, TOKENIZER)
        yield client(url)


def chat(api: openai.OpenAI, **more: Any) -> Any:
    asked = [{"role": "user", "content": "1 + 1"}]
    return api.chat.completions.create(**{"model": NAME, "messages": asked, "max_tokens": 20, **more})


def texts(got: Any) -> list[str]:
    return [choice.message.content for choice in got.choices]


def drawn(choices: int, temperature: float, top_p: float, min_p: float, seed: int = 3) -> list[str]:
    rows = partial(FilteredRows, top_p=top_p, min_p=min_p)
    prompts, draws = [PROMPT] * choices, range(choices)
    found = generate(MODEL, prompts, 20, temperature, TOKENIZER.end_id, seed, ROWS, list(draws), rows)
    return [TOKENIZER.decode(completion.ids) for completion in found]


@pytest.mark.parametrize(("top_p", "min_p"), [(0.6, 0.0), (1.0, 0.2), (0.9, 0.05)])
def test_filters_are_those_of_the_room(api: openai.OpenAI, top_p: float, min_p: float) -> None:
    got = chat(api, n=4, temperature=1.5, top_p=top_p, seed=3, extra_body={"min_p": min_p})
    assert texts(got) == drawn(4, 1.5, top_p, min_p) != texts(chat(api, n=4, temperature=1.5, seed=3))


def test_a_filter_is_of_its_own_request(api: openai.OpenAI) -> None:
    """Requests with filters and without, in the rows of one batch: each gets what it gets alone."""

    def ask(place: int) -> list[str]:
        return texts(chat(api, temperature=1.5, seed=place, top_p=(0.3, 1.0, 0.8)[place % 3], n=2))

    apart = [ask(place) for place in range(9)]
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(ask, range(9))) == apart
    assert chat(api, temperature=0, top_p=0.1).choices == chat(api, temperature=0).choices


ASKED: list[dict[str, Any]] = [
    {"name": "greedy"},
    {"name": "sample", "temperature": 1.5, "top_p": 0.8, "min_p": 0.01},
    {"name": "best_of", "samples": 4, "by": "likelihood", "temperature": 1.5},
    {"name": "majority", "samples": 5, "temperature": 1.5},
    {"name": "beam", "beams": 3},
    {"name": "budget_forcing", "minimum": 8},
    {"name": "speculative", "draft": "small"},
    {"name": "tree", "by": "likelihood", "samples": 4, "depth": 2, "step": 3},
    {"name": "revise", "ask": "so?"},
    {"name": "by_difficulty", "first": 2, "samples": 3, "most": 4},
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked["name"])
def test_an_answer_is_what_the_strategy_finds(api: openai.OpenAI, asked: dict[str, Any]) -> None:
    got = chat(api, seed=5, n=2, extra_body={"strategy": asked})
    given = PromptBatch(TOKENIZER, [PROMPT] * 2, ["0", "1"], 20, 5)
    found = strategy_of(asked)(MODEL, given)
    assert texts(got) == [TOKENIZER.decode(answer.ids) for answer in found]
    assert got.usage.completion_tokens == sum(len(answer.ids) for answer in found)
    ends = ["stop" if answer.ids[-1] == TOKENIZER.end_id else "length" for answer in found]
    assert [choice.finish_reason for choice in got.choices] == ends
    streamed = ["", ""]
    for chunk in chat(api, seed=5, n=2, stream=True, extra_body={"strategy": asked}):
        for one in chunk.choices:
            streamed[one.index] += one.delta.content or ""
    assert streamed == texts(got)


def test_every_strategy_of_the_room_can_be_named() -> None:
    room = {kind.model_fields["name"].default for kind in vars(strategies).values() if hasattr(kind, "model_fields")}
    assert room == {one["name"] for one in ASKED} | {"proxy_tuned"}
    proxy = {"name": "proxy_tuned", "tuned": "a", "untuned": "b"}
    assert strategy_of(proxy).metric_label == "proxy_tuned" and strategy_of("majority") == Majority()
    assert strategy_of('{"name": "best_of", "by": "likelihood"}') == BestOf(by="likelihood")


def test_a_text_that_stops_an_answer_stops_it(api: openai.OpenAI) -> None:
    whole = texts(chat(api, extra_body={"strategy": "greedy"}))[0]
    stop = whole[3:5]
    got = chat(api, stop=stop, extra_body={"strategy": "greedy"})
    assert texts(got) == [whole[: whole.index(stop)]] and got.choices[0].finish_reason == "stop"


def test_others_are_answered_beside_a_strategy(api: openai.OpenAI) -> None:
    plain = texts(chat(api, temperature=0))
    with ThreadPoolExecutor(6) as pool:
        kinds = [{"extra_body": {"strategy": "greedy"}} if n % 2 else {"temperature": 0} for n in range(6)]
        assert {tuple(texts(got)) for got in pool.map(lambda more: chat(api, **more), kinds)} == {tuple(plain)}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"extra_body": {"strategy": "beem"}}, "strategy", "'beem'"),
        ({"extra_body": {"strategy": {"name": "sample", "temperature": 1e-40}}}, "strategy", "strategy.sample.temperature"),
        ({"extra_body": {"strategy": {"name": "majority", "temperature": 1e-40}}}, "strategy", "strategy.majority.temperature"),
        ({"extra_body": {"strategy": {"name": "budget_forcing", "temperature": 1e-40}}}, "strategy", "1e-06 and more"),
        ({"extra_body": {"strategy": {"name": "beam", "beams": 0}}}, "strategy", "strategy.beam.beams: Input should be gr"),
        ({"extra_body": {"strategy": {"name": "best_of"}}}, "strategy", "nobody to score answers: take by: likelihood"),
        ({"extra_body": {"strategy": {"name": "majority", "samples": 500}}}, "strategy", "strategy.samples: 128 at most"),
        ({"extra_body": {"strategy": "majority"}, "n": 20}, "strategy", "128 answers a request at most"),
        ({"extra_body": {"strategy": "by_difficulty"}, "n": 9}, "strategy", "128 answers a request at most"),
        ({"extra_body": {"strategy": "greedy"}, "temperature": 1}, "temperature", "temperature: goes with no strategy"),
        ({"extra_body": {"strategy": "greedy"}, "top_p": 0.5}, "top_p", "top_p: goes with no strategy"),
        ({"extra_body": {"strategy": "greedy"}, "logprobs": True}, "logprobs", "logprobs: goes with no strategy"),
        ({"extra_body": {"strategy": {"name": "speculative", "draft": "none"}}}, "strategy", "data/assistants/none: no su"),
        ({"extra_body": {"strategy": {"name": "speculative", "draft": "../x"}}}, "strategy", "String should match"),
        ({"extra_body": {"strategy": {"name": "budget_forcing", "maximum": 99}}}, "strategy", "leaves no room in max_new"),
        ({"top_p": 0}, "top_p", "top_p: Input should be greater than 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(api: openai.OpenAI, more: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(api, **more)
    message = caught.value.body["message"]  # type: ignore[index]
    assert said in message and "\n" not in message and caught.value.param == param


def test_a_completion_has_no_strategy(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="strategy: there is no such parameter"):
        api.completions.create(model=NAME, prompt="a", extra_body={"strategy": "greedy"})
