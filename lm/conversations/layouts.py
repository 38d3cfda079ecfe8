"""Rows of files as conversations, whichever of the layouts in use they have."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lm.conversations.dialogue import Dialogue

Row = Mapping[str, Any]

# What ShareGPT and its kin call the roles
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bing": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
QUESTIONS, CONTEXTS = ("prompt", "instruction", "question", "query"), ("input", "context")
ANSWERS = ("completion", "response", "output", "answer", "chosen")
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
KNOWN = (
    "`messages` or `conversations` (a list), or two of text: `prompt` and `completion`, `instruction` and `output`, "
    "`question` and `answer`"
)


def dialogue_of(row: Row, where: str) -> Dialogue:
    """The conversation of a row. Raises ValueError with the reason for one that is none, or that nothing can be learned from.

    Layouts: `messages` with `role` and `content` (OpenAI, Hugging Face), where `weight`, or `train` (true or false), says how
    much a message counts; `conversations` with `from` and `value` (ShareGPT); a question in `prompt`, `instruction`, `question`
    or `query`, with what stands in `input` or `context` behind it, and an answer in `completion`, `response`, `output`,
    `answer` or `chosen`, either a text or a list of messages. `system` and `tools` may stand beside any of them; `level` and
    `confidence`, numbers; `rationale`, a text; `markers`, an object of texts and numbers. Of these four what is of another kind
    counts as not there.
    """
    turns = next((row[name] for name in LISTS if isinstance(row.get(name), list)), None)
    messages = _messages(turns, row) if turns is not None else _pair(row)
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    weights = [_weight(message) for message in messages]
    if not any(weights):
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        raise ValueError(f"no message of an assistant counts; its roles are {roles}")
    rationale = row.get("rationale")
    return Dialogue(
        where,
        messages,
        weights,
        _tools(row.get("tools")),
        _number(row, "level"),
        _number(row, "confidence"),
        rationale if isinstance(rationale, str) and rationale.strip() else None,
        _markers(row.get("markers")),
    )


def _number(row: Row, name: str) -> float | None:
    """A field's number, None where it is of another kind. Raises ValueError for one that is none to count with."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if (found := _as_float(value)) == math.inf or found == -math.inf:
        raise ValueError(f"its `{name}` is {value!r:.40}, which is too large a number")
    return found


def _as_float(value: int | float) -> float:
    """The number; infinite where no float is as large, as one that JSON writes with an exponent is read."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _markers(value: Any) -> dict[str, str]:
    """Texts and numbers of an object by their names, as texts; what is blank or of another kind is left out."""
    found = value.items() if isinstance(value, Mapping) else ()
    kept = {
        str(name): str(mark)
        for name, mark in found
        if isinstance(mark, str | int | float) and not isinstance(mark, bool)
    }
    return {name: mark for name, mark in kept.items() if mark.strip()}


def _messages(turns: list[Any], row: Row) -> list[dict[str, Any]]:
    if not turns:
        raise ValueError("its list of messages is empty")
    return [_message(turn, number) for number, turn in enumerate(turns, 1)]


def _message(turn: Any, number: int) -> dict[str, Any]:
    """A message with a role and a text; of a weight it keeps what it says."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"message {number} is {_kind(turn)}, not an object")
    name = next((turn[key] for key in ("role", "from", "speaker") if isinstance(turn.get(key), str)), None)
    if name is None:
        raise ValueError(f"message {number} has no `role`")
    role = ROLES.get(name.strip().lower())
    if role is None:
        raise ValueError(f"message {number} has the role {name!r}; known are {', '.join(sorted(ROLES))}")
    content = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), None)
    calls = turn.get("tool_calls") or None
    if content is None and not calls:
        raise ValueError(f"message {number} has no `content`")
    message: dict[str, Any] = {"role": role, "content": "" if content is None else _text(content, f"message {number}")}
    if calls:
        message["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    for key in ("weight", "train"):
        if turn.get(key) is not None:
            message[key] = turn[key]
    return message


def _pair(row: Row) -> list[dict[str, Any]]:
    """A question and its answer."""
    asked = next((row[name] for name in QUESTIONS if row.get(name) is not None), None)
    said = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if asked is None or said is None:
        there = ", ".join(sorted(map(str, row))) or "none"
        raise ValueError(f"needs {KNOWN}; its fields are {there}")
    if isinstance(asked, list):
        before = [_message(turn, number) for number, turn in enumerate(asked, 1)]
    else:
        question = _text(asked, "the question")
        more = next((row[name] for name in CONTEXTS if isinstance(row.get(name), str) and row[name].strip()), None)
        before = [{"role": "user", "content": question if more is None else f"{question}\n\n{more}"}]
    if isinstance(said, list):
        after = [_message(turn, number) for number, turn in enumerate(said, len(before) + 1)]
        if after[: len(before)] == before:  # `chosen` as many files have it: the whole conversation
            after = after[len(before) :]
    else:
        after = [{"role": "assistant", "content": _text(said, "the answer")}]
    if not any(message["content"].strip() for message in before):
        raise ValueError("the question is blank")
    return [*before, *after]


def _weight(message: dict[str, Any]) -> float:
    """How much a message counts, by what it says of itself, which is taken off it: an assistant's 1, others' 0."""
    weight, train = message.pop("weight", None), message.pop("train", None)
    if weight is not None:
        known = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not known or not 0 <= _as_float(weight) < math.inf:
            raise ValueError(f"a message has the weight {weight!r:.40}, which is no number from 0 on")
        return float(weight) if message["role"] == "assistant" else 0.0
    if train is not None and not isinstance(train, bool):
        raise ValueError(f"a message has `train` {train!r}, which is neither true nor false")
    return float(message["role"] == "assistant" and train is not False)


def _text(value: Any, what: str) -> str:
    """A text, or the texts of a list of parts, as APIs write them."""
    if isinstance(value, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
            for part in value
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
        raise ValueError(f"{what} has parts that are no text")
    if not isinstance(value, str):
        raise ValueError(f"{what} is {_kind(value)}, not a text")
    return value


def _tools(value: Any) -> list[Any] | None:
    """JSON schemas of tools, given as a list or as its JSON."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # lists in lists, too many
            raise ValueError("`tools` is a text that is no JSON") from None
    if value is None or value == "" or value == []:
        return None
    if not isinstance(value, list):
        raise ValueError(f"`tools` is {_kind(value)}, not a list")
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
