"""Conversations as token ids, each with how much it counts in a loss."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lm.chat_template import BEGIN, END
from lm.conversations.dialogue import Dialogue
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation

Learned = Literal["all", "last"]


def encode_dialogue(dialogue: Dialogue, tokenizer: Tokenizer, learned: Learned = "all") -> list[Conversation]:
    """The conversation in tokens, as its model's chat template writes it; the ids are those that transformers makes of it.

    Messages count by their weights, each up to the token that ends it and that token too. learned: "last" has the last of them
    count alone. Where the template writes a message otherwise once others follow it, as those do that drop what a model
    thought, each message that counts comes as a conversation of its own, which ends with it.
    Raises ValueError with the reason for one that the template refuses, that spells a control token, or of which no token
    counts.
    """
    _check(dialogue, tokenizer)
    turns = [number for number, weight in enumerate(dialogue.weights) if weight]
    turns = turns[-1:] if learned == "last" else turns
    whole = tokenizer.template.render(dialogue.messages, tools=dialogue.tools)
    if whole.spans is not None:
        spans = _marked(dialogue, whole.spans)
        return [_conversation(whole.text, [(spans[n], dialogue.weights[n]) for n in turns], tokenizer)]
    found = [_span(dialogue, number, whole.text, tokenizer) for number in turns]
    if all(span is not None for span in found):
        return [
            _conversation(
                whole.text, [(s, dialogue.weights[n]) for s, n in zip(found, turns, strict=True) if s], tokenizer
            )
        ]
    return [_alone(dialogue, number, tokenizer) for number in turns]


def _check(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    """Raises ValueError where a text that the template may write is more than a text: of messages with their calls and names,
    and of tools."""
    for what, texts in (("a message", texts_of(dialogue.messages)), ("`tools`", texts_of(dialogue.tools))):
        for text in texts:
            if name := tokenizer.spelled(text):
                raise ValueError(f"{what} spells the control token {name}, which would end its turn")
            if BEGIN in text or END in text:
                raise ValueError("it has the character U+FDD0 or U+FDD1, which no text may have")


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a value as JSON has them, names included; however deep, for one may be."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one


def _marked(dialogue: Dialogue, spans: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """What the template marks, by the numbers of the assistant's messages."""
    spoken = [number for number, message in enumerate(dialogue.messages) if message["role"] == "assistant"]
    if len(spoken) != len(spans):
        raise ValueError(f"the chat template marks {len(spans)} answers of {len(spoken)}")
    return dict(zip(spoken, spans, strict=True))


def _span(dialogue: Dialogue, number: int, whole: str, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Where the message stands in the whole text; None where what the template writes up to it is not how the text begins."""
    write, messages = tokenizer.template.render, dialogue.messages
    before = write(messages[:number], awaiting=True, tools=dialogue.tools).text if number else ""
    after = write(messages[: number + 1], tools=dialogue.tools).text
    if not (number and after.startswith(before) and whole.startswith(after)):
        return None
    return len(before), len(after)


def _alone(dialogue: Dialogue, number: int, tokenizer: Tokenizer) -> Conversation:
    """The conversation up to a message, which alone counts."""
    messages = dialogue.messages[: number + 1]
    text = tokenizer.template.render(messages, tools=dialogue.tools).text
    before = tokenizer.template.render(messages[:-1], awaiting=True, tools=dialogue.tools).text if number else ""
    if not number or not text.startswith(before):
        raise ValueError("the chat template does not write an answer behind what it asks for one with")
    return _conversation(text, [((len(before), len(text)), dialogue.weights[number])], tokenizer)


def _conversation(text: str, spans: Sequence[tuple[tuple[int, int], float]], tokenizer: Tokenizer) -> Conversation:
    """The text in tokens, with the weight of the span that a token begins in."""
    ids, offsets = tokenizer.encode_written(text)
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    weights = np.zeros(len(ids))
    for (start, end), weight in spans:
        inside = np.flatnonzero((starts >= start) & (starts < end))
        if not len(inside):
            continue
        first, last = int(inside[0]), int(inside[-1])
        ends = [place for place in range(first, min(last + 2, len(ids))) if ids[place] == tokenizer.end_id]
        weights[first : (ends[0] if ends else last) + 1] = weight
    counted = np.flatnonzero(weights)
    if not len(counted):
        raise ValueError("none of its tokens counts")
    begin, end = int(counted[0]), int(counted[-1]) + 1
    if not begin:
        raise ValueError("its first token would count, and nothing stands before it")
    return Conversation(ids[:begin], ids[begin:end], weights[begin:end].tolist())


def truncate(conversation: Conversation, context: int) -> Conversation | None:
    """The first `context` tokens of it; None where none of them counts."""
    if len(conversation) <= context:
        return conversation
    kept = context - len(conversation.prompt)
    weights = None if conversation.weights is None else conversation.weights[: max(kept, 0)]
    if kept <= 0 or (weights is not None and not any(weights)):
        return None
    return Conversation(conversation.prompt, conversation.completion[:kept], weights)
