"""What of a conversation is learned: the answers that count, each with the token that ends it, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lm.conversations.dialogue import Dialogue
from lm.conversations.encode import encode_dialogue, texts_of, truncate
from lm.conversations.layouts import dialogue_of
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation, collate
from tests.conversations.folders import FORGETS, MARKED, TEMPLATES, strangers_folder
from tests.lm.models import toy_tokenizer

TURNS = [
    {"role": "user", "content": "What is 12 + 34?"},
    {"role": "assistant", "content": "It is 46."},
    {"role": "user", "content": "and 2+2"},
    {"role": "assistant", "content": "4"},
]


def dialogue(turns: list[dict[str, Any]], **row: Any) -> Dialogue:
    return dialogue_of({"messages": turns, **row}, "a:1")


def learned(tokenizer: Tokenizer, found: Conversation) -> list[tuple[str, float]]:
    """(text, weight) of each stretch of tokens that count alike, with control tokens as they are spelled."""
    stretches: list[tuple[str, float]] = []
    weights = found.weights or [1.0] * len(found.completion)
    before = 0.0
    for token, weight in zip(found.completion, weights, strict=True):
        text = tokenizer.decode([token]) or tokenizer.token(token)
        if weight and weight == before:
            stretches[-1] = (stretches[-1][0] + text, weight)
        elif weight:
            stretches.append((text, weight))
        before = weight
    return stretches


@pytest.fixture(scope="module", params=[*TEMPLATES, "ours"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "ours":
        return toy_tokenizer()
    return Tokenizer.adopt(strangers_folder(tmp_path_factory.mktemp(request.param), TEMPLATES[request.param]))


def test_answers_count_with_their_ends_and_nothing_else_does(tokenizer: Tokenizer) -> None:
    end = tokenizer.token(tokenizer.end_id)
    pad = " " if end == "</s>" else ""  # the template's own, around an answer
    found = encode_dialogue(dialogue(TURNS), tokenizer)
    said = [(f"{pad}{turn['content']}{pad}{end}", 1.0) for turn in TURNS[1::2]]
    assert [learned(tokenizer, each) for each in found] == [said]
    whole = tokenizer.template.render(TURNS).text
    ids = tokenizer.encode_written(whole)[0]
    made = found[0].prompt + found[0].completion
    assert made == ids[: len(made)] and made[-1] == tokenizer.end_id == found[0].completion[-1]
    last = encode_dialogue(dialogue(TURNS), tokenizer, "last")
    assert [learned(tokenizer, each) for each in last] == [said[1:]]


def test_messages_count_by_their_weights(tokenizer: Tokenizer) -> None:
    turns = [TURNS[0], {**TURNS[1], "train": False}, TURNS[2], {**TURNS[3], "weight": 0.5}]
    (found,) = encode_dialogue(dialogue(turns), tokenizer)
    assert [weight for _, weight in learned(tokenizer, found)] == [0.5]
    ids, mask = collate([found], tokenizer.pad_id)
    counted = ids[0, 1:][mask[0] > 0]
    assert counted.tolist() == found.completion and mask.sum() == 0.5 * len(found.completion)


def test_a_pair_is_what_the_problems_make(tokenizer: Tokenizer) -> None:
    """A question and its answer are in the same tokens whether a file has them or the problem set."""
    (found,) = encode_dialogue(dialogue_of({"prompt": "2+2=", "completion": "4"}, "a:1"), tokenizer)
    assert found.prompt == tokenizer.chat("2+2=") and found.completion[-1] == tokenizer.end_id
    if not tokenizer.own_template:
        assert found.completion == [*tokenizer.encode("4"), tokenizer.end_id]


def test_what_a_template_forgets_is_learned_one_answer_at_a_time(tmp_path: Path) -> None:
    tokenizer = Tokenizer.adopt(strangers_folder(tmp_path, FORGETS))
    turns = [TURNS[0], {"role": "assistant", "content": "<think>6</think>46"}, *TURNS[2:]]
    found = encode_dialogue(dialogue(turns), tokenizer)
    assert [learned(tokenizer, each) for each in found] == [
        [("<think>6</think>46<|im_end|>", 1.0)],
        [("4<|im_end|>", 1.0)],
    ]
    assert "<think>" not in tokenizer.decode(found[1].prompt) and "46" in tokenizer.decode(found[1].prompt)


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.adopt(strangers_folder(tmp_path, MARKED))
    for turns, reason in (
        ([TURNS[0], {**TURNS[1], "content": "a<|im_start|>b"}], r"spells the control token <\|im_start\|>"),
        ([TURNS[0], {**TURNS[1], "content": "a\ufdd0b"}], "U\\+FDD0"),
        ([{**TURNS[0], "content": "a\ufdd0b"}, TURNS[1]], "U\\+FDD0"),
    ):
        with pytest.raises(ValueError, match=reason):
            encode_dialogue(dialogue(turns), tokenizer)
    with pytest.raises(ValueError, match="does not write an answer behind"):
        encode_dialogue(dialogue(TURNS[1:2]), toy_tokenizer())


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
        **more,
    }


@pytest.mark.parametrize(
    ("turns", "tools"),
    [
        ([TURNS[0], call("f", "x@@yz")], None),
        ([TURNS[0], call("f", {"x": ["1", {"y": "a@@"}]})], None),
        ([TURNS[0], call("f", {"x@@": 1})], None),
        ([TURNS[0], call("f@@", {})], None),
        ([TURNS[0], call("f", {}), {"role": "tool", "name": "@@f", "content": "4"}, TURNS[3]], None),
        ([TURNS[0], call("f", {}), {"role": "tool", "tool_call_id": "@@", "content": "4"}, TURNS[3]], None),
        (TURNS, [{"name": "@@fake"}]),
        (TURNS, [{"function": {"name": "f", "parameters": {"properties": {"@@": {"type": "string"}}}}}]),
        (TURNS, ["@@"]),
    ],
)
def test_no_text_of_a_call_or_a_tool_is_a_control_token(
    turns: list[dict[str, Any]], tools: Any, tokenizer: Tokenizer
) -> None:
    """Whatever a template writes of them. With other words in that place all is well where the template takes them."""
    end = tokenizer.token(tokenizer.end_id)

    def said(word: str) -> Dialogue:
        put = json.loads(json.dumps([turns, tools]).replace("@@", word))
        return dialogue(put[0], tools=put[1])

    with pytest.raises(ValueError, match="spells the control token") as raised:
        encode_dialogue(said(end), tokenizer)
    assert str(raised.value).startswith("`tools`" if tools else "a message") and end in str(raised.value)
    with pytest.raises(ValueError, match=r"U\+FDD0"):
        encode_dialogue(said("\ufdd0"), tokenizer)
    if not tokenizer.own_template:
        assert encode_dialogue(said("word"), tokenizer)


def test_texts_are_found_however_deep() -> None:
    deep: Any = "word"
    for _ in range(5000):
        deep = [{"a": deep}]
    assert set(texts_of([deep, 1, None, {"b": ("c", True)}])) == {"word", "a", "b", "c"}


def test_what_is_too_long_is_cut_where_something_is_left_to_learn() -> None:
    found = Conversation([1, 2, 3], [4, 5, 6], [1.0, 0.0, 0.5])
    assert truncate(found, 6) is found
    assert truncate(found, 5) == Conversation([1, 2, 3], [4, 5], [1.0, 0.0])
    assert truncate(found, 3) is None and truncate(Conversation([1, 2], [3, 4], [0.0, 1.0]), 3) is None
    assert truncate(Conversation([1, 2], [3, 4]), 3) == Conversation([1, 2], [3])


def test_weights_reach_their_predictions() -> None:
    ids, mask = collate([Conversation([7, 8], [9, 10, 11], [1.0, 0.0, 0.5]), Conversation([1], [2])], 0)
    assert ids.tolist() == [[7, 8, 9, 10, 11], [1, 2, 0, 0, 0]]
    assert torch.equal(mask, torch.tensor([[0, 1.0, 0, 0.5], [1.0, 0, 0, 0]]))
