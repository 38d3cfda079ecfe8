"""Demonstrations found for each example stand before it (Mueller et al. 2023, "Meta-training with Demonstration Retrieval",
arXiv:2307.00119).

What is found are examples of the same source, of one exchange and with another question, so nothing of a held-out split, and
no example's own answer, can be among them. They are read and not learned.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from lm.conversations.dialogue import Dialogue
from tasks.sft.formats.base import Format, last_exchange, texts, uniform_draw
from tasks.sft.formats.search import Index, bm25, normed, trigrams, words


def behind(demonstrations: Sequence[tuple[str, str]], dialogue: Dialogue) -> Dialogue:
    """The dialogue behind these questions and answers, each a turn of the user and one of the assistant that counts nothing;
    what a system says stays first."""
    first = next(
        (n for n, message in enumerate(dialogue.messages) if message["role"] != "system"), len(dialogue.messages)
    )
    shown = [
        {"role": role, "content": text}
        for pair in demonstrations
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    messages = [*dialogue.messages[:first], *shown, *dialogue.messages[first:]]
    return replace(
        dialogue,
        messages=messages,
        weights=[*dialogue.weights[:first], *[0.0] * len(shown), *dialogue.weights[first:]],
    )


def opens(dialogue: Dialogue, place: int) -> bool:
    """Whether the exchange whose answer stands at this place is the first, so that it can be read without another."""
    return all(message["role"] == "system" for message in dialogue.messages[: place - 1])


class Retrieved(Format):
    """The likest stand last, next to the question.

    Differs from the paper: words or letters in common decide, not a dense retriever that was trained; a demonstration is a turn
    of a conversation; and no other stage puts any before its questions, so a model is to be asked with some.
    """

    name: Literal["retrieved"] = "retrieved"
    shots: int = Field(2, gt=0, description="demonstrations before each example")
    by: Literal["bm25", "trigrams", "random"] = Field(
        "bm25",
        description="words that are shared, by BM25; letters, by the cosine of trigrams; or chance, to compare with",
    )
    bank: int = Field(4096, gt=0, description="rows of the source that are searched at most, drawn by the seed")

    def __call__(self, dialogues: Sequence[Dialogue], seed: int) -> list[list[Dialogue]]:
        places = [last_exchange(dialogue) for dialogue in dialogues]
        there = [
            n for n, (each, place) in enumerate(zip(dialogues, places, strict=True)) if place and opens(each, place)
        ]
        there.sort(key=lambda number: (uniform_draw("bank", seed, dialogues[number]), number))
        pairs = [texts(dialogues[number], places[number] or 0) for number in there[: self.bank]]
        questions = [" ".join(asked.split()).casefold() for asked, _ in pairs]
        scores_of = self._searched(questions)
        written = []
        for number, (dialogue, place) in enumerate(zip(dialogues, places, strict=True)):
            if place is None:
                written.append([dialogue])
                continue
            own = " ".join(texts(dialogue, place)[0].split()).casefold()
            if self.by == "random":
                order_N = np.random.Generator(np.random.Philox(key=[seed, number])).permutation(len(pairs))
            else:
                order_N = np.argsort(-scores_of(own), kind="stable")
            found = list(islice((pairs[n] for n in order_N if questions[n] != own), self.shots))
            written.append([behind(found[::-1], dialogue)])
        return written

    def _searched(self, questions: list[str]) -> Callable[[str], np.ndarray]:
        terms = trigrams if self.by == "trigrams" else words
        weigh = normed if self.by == "trigrams" else bm25
        index = Index(weigh([terms(question) for question in questions]))
        return lambda question: index.scores(terms(question))
