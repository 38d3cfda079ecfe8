"""Rows of every layout in use become conversations; what is none is refused with a reason that says what is wrong."""

import math
from typing import Any

import pytest

from lm.conversations.layouts import dialogue_of

QUESTION, ANSWER = {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = [QUESTION, ANSWER]

LAYOUTS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"messages": PAIR}, PAIR),
    ({"messages": [SYSTEM, *PAIR, QUESTION, ANSWER]}, [SYSTEM, *PAIR, QUESTION, ANSWER]),
    ({"conversations": [{"from": "human", "value": "2+2"}, {"from": "gpt", "value": "4"}], "system": "Be brief."}, [SYSTEM, *PAIR]),
    ({"conversation": [{"from": "User", "text": "2+2"}, {"from": "bot", "text": "4"}]}, PAIR),
    ({"prompt": "2+2", "completion": "4"}, PAIR),
    ({"prompt": [SYSTEM, QUESTION], "completion": [ANSWER]}, [SYSTEM, *PAIR]),
    ({"prompt": [QUESTION], "chosen": [QUESTION, ANSWER], "rejected": []}, PAIR),
    ({"prompt": "2+2", "chosen": "4", "rejected": "5"}, PAIR),
    ({"instruction": "2+2", "input": "", "output": "4"}, PAIR),
    ({"instruction": "Add.", "input": "2+2", "output": "4"}, [{"role": "user", "content": "Add.\n\n2+2"}, ANSWER]),
    ({"instruction": "Add.", "context": "2+2", "response": "4", "category": "x"}, [{"role": "user", "content": "Add.\n\n2+2"}, ANSWER]),
    ({"question": "2+2", "answer": "4", "level": 3}, PAIR),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "+2"}]}, ANSWER]}, PAIR),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), LAYOUTS, ids=[" ".join(row) for row, _ in LAYOUTS])
def test_a_layout_gives_its_messages_and_answers_count(row: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    found = dialogue_of(row, "a:1")
    assert found.messages == messages
    assert found.weights == [float(message["role"] == "assistant") for message in messages]
    assert found.level == row.get("level") and found.where == "a:1"


def test_a_message_says_how_much_it_counts() -> None:
    turns = [QUESTION, {**ANSWER, "train": False}, QUESTION, {**ANSWER, "weight": 0.5}, QUESTION, ANSWER]
    found = dialogue_of({"messages": turns}, "a:1")
    assert found.weights == [0, 0, 0, 0.5, 0, 1]
    assert found.messages == PAIR * 3  # what templates are given says nothing of it


def test_tools_and_their_calls_are_kept() -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}]
    turns = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "name": "add", "content": "4"},
        ANSWER,
    ]
    found = dialogue_of({"messages": turns, "tools": '[{"name": "add"}]'}, "a:1")
    assert found.messages == [
        QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "4", "name": "add"}, ANSWER,
    ]  # fmt: skip
    assert found.tools == [{"name": "add"}] and found.weights == [0, 1, 0, 1]


def test_a_row_says_how_sure_it_is_why_and_of_what_kind() -> None:
    pair = {"prompt": "2+2", "completion": "4"}
    found = dialogue_of(
        {**pair, "confidence": 0.5, "rationale": "1+1+1+1", "markers": {"domain": "sums", "digits": 1}}, "a:1"
    )
    assert (found.confidence, found.rationale, found.markers) == (0.5, "1+1+1+1", {"domain": "sums", "digits": "1"})
    for row in (
        pair,
        {**pair, "confidence": "high", "rationale": [], "markers": ["sums"]},
        {**pair, "confidence": True, "rationale": " "},
    ):
        found = dialogue_of(row, "a:1")
        assert (found.confidence, found.rationale, found.markers) == (None, None, {})
    assert dialogue_of({**pair, "markers": {"a": True, "b": None, "c": " ", "d": "x", "e": {}}}, "a:1").markers == {
        "d": "x"
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"text": "2+2=4", "id": 1}, "needs `messages` or .* its fields are id, text"),
    ({}, "its fields are none"),
    ({"messages": []}, "its list of messages is empty"),
    ({"messages": [QUESTION]}, "no message of an assistant counts; its roles are user"),
    ({"messages": [QUESTION, {**ANSWER, "train": False}]}, "no message of an assistant counts"),
    ({"messages": [QUESTION, {"role": "judge", "content": "x"}]}, "message 2 has the role 'judge'; known are assistant, "),
    ({"messages": [{"content": "x"}, ANSWER]}, "message 1 has no `role`"),
    ({"messages": [{"role": "user"}, ANSWER]}, "message 1 has no `content`"),
    ({"messages": ["2+2", ANSWER]}, "message 1 is str, not an object"),
    ({"messages": [{"role": "user", "content": 4}, ANSWER]}, "message 1 is int, not a text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "message 1 has parts that are no text"),
    ({"messages": [QUESTION, {**ANSWER, "weight": -1}]}, "has the weight -1, which is no number from 0 on"),
    ({"messages": [QUESTION, {**ANSWER, "weight": True}]}, "has the weight True"),
    ({"messages": [QUESTION, {**ANSWER, "weight": 10**400}]}, "has the weight 1000+, which is no number from 0 on"),
    ({"messages": [{**QUESTION, "weight": 10**400}, ANSWER]}, "has the weight 10+, which"),
    ({"messages": [QUESTION, {**ANSWER, "weight": -(10**400)}]}, "has the weight -10+, which"),
    ({"messages": [QUESTION, {**ANSWER, "weight": float("inf")}]}, "has the weight inf"),
    ({"prompt": "2+2", "completion": "4", "level": 10**400}, "its `level` is 10{39}, which is too large a number"),
    ({"prompt": "2+2", "completion": "4", "level": float("-inf")}, "its `level` is -inf, which is too large a number"),
    ({"prompt": "2+2", "completion": "4", "confidence": -(10**400)}, "its `confidence` is -10{38}, which is"),
    ({"prompt": "2+2", "completion": "4", "tools": "[" * 100_000}, "`tools` is a text that is no JSON"),
    ({"messages": [QUESTION, {**ANSWER, "train": 1}]}, "`train` 1, which is neither true nor false"),
    ({"prompt": "2+2"}, "its fields are prompt"),
    ({"prompt": "  ", "completion": "4"}, "the question is blank"),
    ({"prompt": "2+2", "completion": 4}, "the answer is int, not a text"),
    ({"prompt": "2+2", "completion": "4", "tools": "{"}, "`tools` is a text that is no JSON"),
    ({"prompt": "2+2", "completion": "4", "tools": "{}"}, "`tools` is dict, not a list"),
]  # fmt: skip


def test_numbers_that_a_float_holds_are_kept() -> None:
    row = {"prompt": "2+2", "completion": "4", "level": 10**300, "confidence": float("nan")}
    found = dialogue_of(row, "a:1")
    assert found.level == 1e300 and found.confidence is not None and math.isnan(found.confidence)


@pytest.mark.parametrize(("row", "reason"), WRONG, ids=[reason[:40] for _, reason in WRONG])
def test_what_is_no_conversation_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dialogue_of(row, "a:1")
