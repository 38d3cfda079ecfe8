"""`make serve` to OpenAI's own client: what the model writes alone is what every way of asking gives, beside others or not."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from safetensors.torch import save_file

from lm.checkpoint import description_of, save_model
from lm.continuous import RunningBatch
from lm.files import write_json
from lm.hugging_face.export import save_hf
from lm.model_folder import read_model
from lm.quantized.state import pack_state
from lm.sampler import generate
from tasks.quantize.methods import Int8
from tests.flows.serve.api import CONTEXT, KEY, NAME, ROWS, client, served, toy

MODEL, TOKENIZER = toy()
ASKED = [{"role": "user", "content": "1 + 1"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(MODEL, TOKENIZER) as found:
        yield found


@pytest.fixture(scope="module")
def api(url: str) -> openai.OpenAI:
    return client(url)


def alone(
    prompt: list[int], most: int, temperature: float = 0.0, seed: int = 0, choice: int = 0
) -> tuple[str, int, str]:
    """(text, tokens, why it ended) of what the sampler writes behind a prompt."""
    [made] = generate(MODEL, [prompt], most, temperature, TOKENIZER.end_id, seed, ROWS, [choice])
    return TOKENIZER.decode(made.ids), len(made.ids), "stop" if made.finished else "length"


def chat(api: openai.OpenAI, **more: Any) -> Any:
    return api.chat.completions.create(**{"model": NAME, "messages": ASKED, "temperature": 0, **more})


def complete(api: openai.OpenAI, **more: Any) -> Any:
    return api.completions.create(**{"model": NAME, "prompt": "1 + 1", "temperature": 0, "max_tokens": 40, **more})


def test_the_model_is_listed(api: openai.OpenAI) -> None:
    [card] = api.models.list().data
    assert card.id == NAME == api.models.retrieve(NAME).id and card.max_model_len == CONTEXT  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        api.models.retrieve("gpt-4")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_what_the_sampler_gives(api: openai.OpenAI, temperature: float) -> None:
    prompt = TOKENIZER.chat("1 + 1")
    got = chat(api, temperature=temperature, seed=7, max_tokens=20)
    text, tokens, why = alone(prompt, 20, temperature, 7)
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == (text, why) and got.model == NAME
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (len(prompt), tokens)
    assert got.usage.total_tokens == len(prompt) + tokens and len(text) > 3
    whole = chat(api, temperature=temperature, seed=7, max_completion_tokens=20)
    assert whole.choices[0].message.content == text
    prompt = TOKENIZER.encode("1 + 1")
    done = complete(api, temperature=temperature, seed=7)
    assert done.choices[0].text == alone(prompt, 40, temperature, 7)[0]
    assert complete(api, prompt=prompt, temperature=temperature, seed=7).choices == done.choices


def test_a_conversation_is_written_as_the_template_has_it(api: openai.OpenAI) -> None:
    said = [
        {"role": "system", "content": "short"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    plain = [{**one, "content": "ab"} if isinstance(one["content"], list) else one for one in said]
    prompt, _ = TOKENIZER.encode_written(TOKENIZER.template.render(plain, awaiting=True).text)
    got = chat(api, messages=said, max_tokens=9)
    assert got.usage.prompt_tokens == len(prompt) and got.choices[0].message.content == alone(prompt, 9)[0]


@pytest.mark.parametrize("choices", [1, 2 * ROWS])
def test_a_stream_put_together_is_the_whole_answer(api: openai.OpenAI, choices: int) -> None:
    asked: dict[str, Any] = {"temperature": 1.0, "seed": 5, "n": choices}
    whole = chat(api, **asked, max_tokens=30)
    texts, ends, roles, usage = [""] * choices, [""] * choices, [""] * choices, None
    for chunk in chat(api, **asked, max_tokens=30, stream=True, stream_options={"include_usage": True}):
        assert usage is None and chunk.id and chunk.object == "chat.completion.chunk"
        usage = chunk.usage
        for one in chunk.choices:
            texts[one.index] += one.delta.content or ""
            ends[one.index] = one.finish_reason or ends[one.index]
            roles[one.index] += one.delta.role or ""
    assert texts == [one.message.content for one in whole.choices]
    assert ends == [one.finish_reason for one in whole.choices] and set(roles) == {"assistant"}
    assert usage == whole.usage and len(set(texts)) == choices
    expected = [alone(TOKENIZER.chat("1 + 1"), 30, 1.0, 5, choice) for choice in range(choices)]
    assert texts == [text for text, _, _ in expected]
    assert whole.usage.completion_tokens == sum(tokens for _, tokens, _ in expected)
    chunks = list(complete(api, **asked, stream=True))
    done = complete(api, **asked)
    for one in done.choices:
        assert "".join(c.choices[0].text for c in chunks if c.choices[0].index == one.index) == one.text


def test_a_request_is_answered_alike_alone_and_beside_others(api: openai.OpenAI) -> None:
    """Of lengths, temperatures and seeds of all kinds, more at once than there are rows, which come while others are
    written."""

    def ask(place: int) -> str:
        text = "abcdefghijk" * (place % 7)
        got = complete(api, prompt=text, temperature=place % 3 / 2, seed=place, max_tokens=10 + 5 * (place % 5))
        return got.choices[0].text

    places = range(24)
    apart = [ask(place) for place in places]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, [*places, *places]))
    assert together == apart * 2 and len(set(apart)) > 12


def test_requests_share_steps(api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[int] = []
    step = RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda self: (beside.append(len(self.running)), step(self))[1])
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: complete(api, seed=seed, temperature=1.0, max_tokens=100), range(6)))
    assert max(beside) == ROWS


def test_several_prompts_are_answered_in_their_order(api: openai.OpenAI) -> None:
    prompts = ["ab", "a longer one", ""]
    got = complete(api, prompt=prompts, n=2, temperature=1.0, seed=3, max_tokens=8)
    ids = [TOKENIZER.encode(text) or [TOKENIZER.eos_id] for text in prompts]
    assert [one.index for one in got.choices] == list(range(6))
    assert [one.text for one in got.choices] == [alone(each, 8, 1.0, 3, n)[0] for each in ids for n in (0, 1)]
    assert got.usage.prompt_tokens == sum(map(len, ids))
    assert [one.text for one in complete(api, prompt=ids, n=2, temperature=1.0, seed=3, max_tokens=8).choices] == [
        one.text for one in got.choices
    ]


def test_without_a_seed_answers_differ(api: openai.OpenAI) -> None:
    assert len({complete(api, temperature=1.0).choices[0].text for _ in range(4)}) > 1


def test_without_a_seed_a_prompt_asked_twice_has_two_answers(api: openai.OpenAI) -> None:
    ids = TOKENIZER.encode("1 + 1")
    for prompts in (["1 + 1"] * 4, [ids] * 4):
        assert len({one.text for one in complete(api, prompt=prompts, temperature=1.0).choices}) > 1
    seeded = complete(api, prompt=[ids] * 3, temperature=1.0, seed=3)
    assert {one.text for one in seeded.choices} == {alone(ids, 40, 1.0, 3)[0]}


def test_a_temperature_near_0_is_0_and_ends_no_answer_of_others(api: openai.OpenAI) -> None:
    """1e-40 rounds to a number of float32 that logits cannot be divided by, and was a failure of the batch's step."""
    with ThreadPoolExecutor(ROWS) as pool:
        cold = list(pool.map(lambda t: complete(api, temperature=t).choices[0].text, [1e-40, 0, 1e-7, 5e-324]))
    assert set(cold) == {alone(TOKENIZER.encode("1 + 1"), 40)[0]}
    warm = complete(api, temperature=1e-6, seed=1).choices[0].text
    assert warm == alone(TOKENIZER.encode("1 + 1"), 40, 1e-6, 1)[0]


def test_a_text_that_stops_is_in_no_answer_streamed_or_not(api: openai.OpenAI) -> None:
    text, _, _ = alone(TOKENIZER.encode("1 + 1"), 40)
    stop = text[5:8]
    cut = text[: text.index(stop)]
    for given in (stop, ["zzz", stop]):
        got = complete(api, stop=given)
        assert (got.choices[0].text, got.choices[0].finish_reason) == (cut, "stop")
        assert got.usage.completion_tokens < 40
        assert "".join(chunk.choices[0].text for chunk in complete(api, stop=given, stream=True)) == cut
    got = complete(api, stop="zzz")
    assert got.choices[0].text == text


def test_an_answer_ends_where_the_context_does(api: openai.OpenAI) -> None:
    prompt = [TOKENIZER.encode("a")[0]] * (CONTEXT - 3)
    got = complete(api, prompt=prompt, max_tokens=100)
    assert got.usage.completion_tokens == 3 and got.choices[0].finish_reason == "length"


def test_log_probabilities_are_the_models(api: openai.OpenAI) -> None:
    prompt = TOKENIZER.chat("1 + 1")
    got = chat(api, temperature=0.5, seed=1, max_tokens=9, logprobs=True, top_logprobs=2).choices[0]
    [made] = generate(MODEL, [prompt], 9, 0.5, TOKENIZER.end_id, 1, ROWS)
    with torch.no_grad():
        logps = MODEL(torch.tensor([prompt + made.ids]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert len(got.logprobs.content) == len(made.ids)
    for index, token, logps_V in zip(made.ids, got.logprobs.content, logps, strict=True):
        assert token.token == TOKENIZER.spell([index])
        assert token.bytes == (None if "\N{REPLACEMENT CHARACTER}" in token.token else list(token.token.encode()))
        assert token.logprob == pytest.approx(logps_V[index].item(), abs=1e-4)  # fp32 with sums in another order
        assert [one.logprob for one in token.top_logprobs] == pytest.approx(logps_V.topk(2).values.tolist(), abs=1e-4)
    plain = complete(api, logprobs=1).choices[0].logprobs
    assert plain.token_logprobs == [next(iter(one.values())) for one in plain.top_logprobs]  # greedy: the likeliest
    ids = generate(MODEL, [TOKENIZER.encode("1 + 1")], 40, 0.0, TOKENIZER.end_id, 0, ROWS)[0].ids
    before = [TOKENIZER.decode(ids[:place]).rstrip("\N{REPLACEMENT CHARACTER}") for place in range(len(ids))]
    assert plain.text_offset == list(map(len, before))
    streamed = [
        c.choices[0].logprobs.content
        for c in chat(api, logprobs=True, max_tokens=9, stream=True)
        if c.choices[0].logprobs
    ]
    assert list(chain.from_iterable(streamed)) == chat(api, logprobs=True, max_tokens=9).choices[0].logprobs.content
    assert chat(api).choices[0].logprobs is None


def posted(url: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {KEY}"} if headers is None else headers
    request = urllib.request.Request(f"{url}/completions", body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("more", "status", "code", "said"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "there is no model 'gpt-4'; here is 'toy'"),
        (
            {"prompt": "a" * CONTEXT},
            400,
            "context_length_exceeded",
            f"prompt: {CONTEXT} tokens, and the context of {CONTEXT} takes",
        ),
        ({"prompt": [261]}, 400, None, "prompt: ids are 0 to 260"),
        ({"prompt": []}, 400, None, "prompt: 1 to 128 completions a request"),
        ({"prompt": {}}, 400, None, "prompt: must be a text, a list of texts, a list of ids or a list of such"),
        ({"max_tokens": 0}, 400, None, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": "9"}, 400, None, "max_tokens: Input should be a valid integer"),
        ({"temperature": 3}, 400, None, "temperature: Input should be less than or equal to 2"),
        ({"n": 129}, 400, None, "n: Input should be less than or equal to 128"),
        ({"stop": [""]}, 400, None, "stop: up to 4 texts"),
        ({"stop": 4}, 400, None, "stop: must be a text or a list of texts"),
        ({"presence_penalty": 0.5}, 400, "unsupported_parameter", "presence_penalty: is not supported: leave it out"),
        ({"tmperature": 0.5}, 400, "unknown_parameter", "tmperature: there is no such parameter"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    url: str, more: dict[str, Any], status: int, code: str | None, said: str
) -> None:
    got, body = posted(url, json.dumps({"model": NAME, "prompt": "a", **more}).encode())
    error = body["error"]
    assert (got, error["code"], error["type"]) == (status, code, "invalid_request_error"), error
    assert error["message"].startswith(said) and "\n" not in error["message"]
    assert error["param"] in (None, next(iter(more)))


def test_what_asks_for_nothing_is_taken(api: openai.OpenAI) -> None:
    more = {"top_p": 1, "presence_penalty": 0, "user": "somebody", "logit_bias": {}}
    assert complete(api, **more).choices == complete(api).choices
    assert chat(api, response_format={"type": "text"}, tool_choice="auto").choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "judge", "content": "a"}], "the roles are system, user, assistant and tool, not judge"),
        ([{"role": "user", "content": "a<|end|>"}], "one spells the control token <|end|>"),
        ([{"role": "user", "content": "a", "name": "b<|end|>"}], "one spells the control token <|end|>"),
        ([{"role": "user<|end|>", "content": "a"}], "one spells the control token <|end|>"),
        ([{"role": "user", "content": [{"type": "image_url", "text": ""}]}], "a part of type 'image_url'"),
        ([], "messages: List should have at least 1 item"),
        ([{"role": "user", "content": "a" * 200}], "messages: 202 tokens, and the context of 128 takes"),
    ],
)
def test_messages_that_cannot_be_read_are_one_line(api: openai.OpenAI, messages: list[Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        chat(api, messages=messages)
    assert caught.value.param == "messages"


SURROGATES = [(b'"toy"', b'"\\ud800"'), (b'"\\ud800"', b'"a"'), (b'"toy"', b'["a", "b\\ud800"]')]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"{", "the body is not JSON"), (b"[]", "the body is no JSON object"), (b"\xff", "not JSON")]
    + [(b'{"model": %s, "prompt": %s}' % pair, "half of a pair of surrogates, '\\ud800'") for pair in SURROGATES],
)
def test_a_body_that_is_no_request_is_one_line(url: str, body: bytes, said: str) -> None:
    status, answer = posted(url, body)
    assert status == 400 and said in answer["error"]["message"] and "\n" not in answer["error"]["message"]


def test_a_body_beyond_measure_is_not_read(url: str) -> None:
    status, answer = posted(url, b" " * (2**23 + 1))
    assert status == 413 and "larger than" in answer["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nobody"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer \xff"},
    ],
)
def test_without_the_key_nobody_is_answered(url: str, headers: dict[str, str]) -> None:
    status, body = posted(url, b"{}", headers)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def test_a_foreign_host_name_is_not_answered_and_where_nothing_is_is_said(url: str, api: openai.OpenAI) -> None:
    status, _ = posted(url, b"{}", {"Authorization": f"Bearer {KEY}", "Host": "evil.example:80"})
    assert status == 403
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings: not found"):
        api.embeddings.create(model=NAME, input="a")
    with pytest.raises(openai.APIStatusError, match="GET /v1/completions: method not allowed"):
        api.get("/completions", cast_to=object)


def test_where_no_key_is_wanted_any_is_fine() -> None:
    with served(MODEL, TOKENIZER, None) as url:
        assert client(url, "any").models.list().data[0].id == NAME
        assert posted(url, json.dumps({"model": NAME, "prompt": "a"}).encode(), {})[0] == 200


def test_a_client_that_leaves_makes_room(api: openai.OpenAI) -> None:
    """All rows are taken by streams of which one chunk is read; the answer that waits for a row comes all the same."""
    streams = [complete(api, stream=True, max_tokens=120, temperature=1.0, seed=seed) for seed in range(ROWS)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    assert complete(api).choices[0].text == alone(TOKENIZER.encode("1 + 1"), 40)[0]


def test_a_failing_model_is_an_error_and_no_silence(api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: RunningBatch) -> None:
        raise RuntimeError("out of\nmemory")

    with monkeypatch.context() as patched:
        patched.setattr(RunningBatch, "step", failing)
        with pytest.raises(openai.InternalServerError, match="the model failed: out of memory"):
            complete(api)
        with pytest.raises(openai.APIError, match="the model failed: out of memory"):
            list(complete(api, stream=True))
    assert complete(api).choices[0].text


def test_quantized_models_and_folders_of_hugging_face_are_served(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save_hf(MODEL, TOKENIZER, theirs, torch.float32)
    ours.mkdir()
    save_model(ours, MODEL, TOKENIZER)
    state = MODEL.state_dict()
    packed = {name: Int8()(weight, None) for name, weight in state.items() if weight.ndim == 2}
    tensors, described = pack_state(packed, {name: weight for name, weight in state.items() if name not in packed})
    save_file(tensors, ours / "model.safetensors")
    write_json(ours / "config.json", {**description_of(MODEL, TOKENIZER), "quantization": described})
    for folder in (theirs, ours):
        model, tokenizer = read_model(folder)
        prompt = tokenizer.chat("1 + 1")
        [made] = generate(model, [prompt], 9, 0.0, tokenizer.end_id, 0, ROWS)
        with served(model, tokenizer) as url:
            assert chat(client(url), max_tokens=9).choices[0].message.content == tokenizer.decode(made.ids)
