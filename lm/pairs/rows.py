"""The rows of files of pairs: one conversation with two last answers, of which the first is the better."""

from collections.abc import Mapping
from typing import Any

from lm.conversations.dialogue import Dialogue
from lm.conversations.encode import encode_dialogue
from lm.conversations.layouts import dialogue_of
from lm.pairs.base import Pair
from lm.tokenizer import Tokenizer


class NoPair(ValueError):
    """A row that is no pair. reason: a word by which such rows are counted; the message says what is wrong."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason = reason


def dialogues_of(row: Mapping[str, Any], where: str) -> tuple[Dialogue, Dialogue]:
    """(conversation that ends with the better answer, the same with the worse one): in each the last message alone counts.

    `chosen` and `rejected` are the answer's text, a list of its one message, or the whole conversation, which need not have
    `prompt` beside it. `prompt` is a text or a list of messages: a system's, earlier turns, the question. `system` and `tools`
    may stand beside. Messages are as lm/conversations/layouts.py reads them. Raises NoPair.
    """
    chosen, rejected = _side(row, "chosen", where), _side(row, "rejected", where)
    before = chosen.messages[:-1]
    if before != rejected.messages[:-1]:
        raise NoPair("prompts_differ", "what stands before the two answers is not the same")
    if not before:
        raise NoPair("missing_prompt", "nothing stands before the answers; give it a `prompt`")
    if not any(message["content"].strip() for message in before):
        raise NoPair("empty_prompt", "what stands before the answers is blank")
    if chosen.messages == rejected.messages:
        raise NoPair("answers_are_the_same", "`chosen` and `rejected` are the same")
    return chosen, rejected


def _side(row: Mapping[str, Any], name: str, where: str) -> Dialogue:
    said, asked = row.get(name), row.get("prompt")
    if said is None:
        raise NoPair(f"missing_{name}", f"has no `{name}`")
    if asked is None and not isinstance(said, list):
        raise NoPair("missing_prompt", f"has no `prompt`, and `{name}` is no whole conversation")
    turns = {"messages": said} if asked is None else {"prompt": asked, "completion": said}
    beside = {key: row[key] for key in ("system", "tools") if row.get(key) is not None}
    try:
        found = dialogue_of({**turns, **beside}, where)
    except ValueError as error:
        raise NoPair(f"{name}_is_no_conversation", f"`{name}`: {error}") from None
    if found.messages[-1]["role"] != "assistant":
        raise NoPair(f"{name}_is_no_answer", f"`{name}` ends with a message of the {found.messages[-1]['role']}")
    weights = [0.0] * (len(found.messages) - 1) + [1.0]
    return Dialogue(where, found.messages, weights, found.tools)


def pair_of(chosen: Dialogue, rejected: Dialogue, tokenizer: Tokenizer) -> Pair:
    """The two in tokens, as the model's chat template writes them. Raises NoPair for what the template refuses or writes with
    another prompt before each."""
    try:
        (better,), (worse,) = (encode_dialogue(one, tokenizer, "last") for one in (chosen, rejected))
    except ValueError as error:
        raise NoPair("not_encoded", str(error)) from None
    if better.prompt != worse.prompt:
        raise NoPair("prompts_differ", "the chat template writes what stands before the answers differently")
    return Pair(chosen.where, prompt_of(chosen), better.prompt, better.completion, worse.completion)


def prompt_of(dialogue: Dialogue) -> str:
    """What stands before the answer as one text: the question where that is all, else each message behind its role."""
    before = dialogue.messages[:-1]
    if len(before) == 1 and before[0]["role"] == "user":
        return str(before[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in before)
