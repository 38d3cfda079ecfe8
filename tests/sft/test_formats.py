"""How examples are written: what every format must do, and texts and masks worked by hand."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import Config, ConfigError, methods_of
from lm.conversations.dialogue import Dialogue
from lm.conversations.encode import encode_dialogue
from lm.conversations.layouts import dialogue_of
from lm.problems import Arithmetic, Gsm8k
from lm.problems.example import Example
from tasks.sft import formats
from tasks.sft.examples import pieces
from tasks.sft.formats import Flipped, Markers, Plain, Rationales, Retrieved
from tasks.sft.formats.base import last_exchange
from tasks.sft.formats.markers import bands
from tasks.sft.formats.search import Index, bm25, normed, trigrams, words
from tasks.sft.sources import Files, Problems
from tasks.sft.sources.problems import divided
from tests.lm.models import toy_tokenizer

TOKENIZER = toy_tokenizer()
EVERY = pytest.mark.parametrize("method", methods_of(formats), ids=lambda method: method.__name__)


def pair(asked: str, answered: str, number: int = 0, **more: Any) -> Dialogue:
    return dialogue_of({"prompt": asked, "completion": answered, **more}, f"a/rows.jsonl:{number}")


def spelled(dialogue: Dialogue) -> str:
    """The dialogue as tokens, with what counts in brackets."""
    [conversation] = encode_dialogue(dialogue, TOKENIZER)
    marks = {0.0: "{}", 1.0: "[[{}]]"}
    return "".join(
        marks.get(p.weight, f"[[{{}}]]*{p.weight:g}").format(p.text) for p in pieces(TOKENIZER, conversation)
    )


SYSTEM, USER, TOOL = ({"role": role, "content": role[:2]} for role in ("system", "user", "tool"))
TURNS = {
    "messages": [
        SYSTEM,
        USER,
        {"role": "assistant", "content": "first"},
        {**USER, "content": "more"},
        {"role": "assistant", "content": "second"},
    ]
}
ROWS = [
    *(pair(f"what is {n % 5}", "x" * n + "y", n, markers={"n": n % 2}, rationale="r" * (n % 3), level=n) for n in range(9)),
    dialogue_of({**TURNS, "rationale": "why"}, "a/rows.jsonl:10"),
    dialogue_of({"messages": [USER, {"role": "assistant", "content": "call", "weight": 0}, TOOL, {"role": "assistant", "content": "told"}]}, "a/rows.jsonl:11"),
    dialogue_of({"messages": [USER, {"role": "assistant", "content": "called", "tool_calls": [{"name": "f"}]}]}, "a/rows.jsonl:12"),
]  # fmt: skip


@EVERY
def test_every_row_is_written_for_itself_and_stays_as_it_was(method: type[Config]) -> None:
    before = deepcopy(ROWS)
    found = method()(ROWS, 3)
    assert before == ROWS and len(found) == len(ROWS)
    assert method()(ROWS, 3) == found
    for row, written in zip(ROWS, found, strict=True):
        for dialogue in written:
            assert len(dialogue.weights) == len(dialogue.messages)
            assert dialogue.where == row.where and dialogue.level == row.level and dialogue.confidence == row.confidence
            roles = [message["role"] for message in dialogue.messages]
            assert all(role == "assistant" for role, weight in zip(roles, dialogue.weights, strict=True) if weight)
            assert encode_dialogue(dialogue, TOKENIZER)
    assert method()([], 3) == []


@EVERY
def test_a_row_without_an_exchange_is_as_it_was_or_none(method: type[Config]) -> None:
    found = method()(ROWS, 3)
    for row, written in zip(ROWS, found, strict=True):
        if last_exchange(row) is None:
            assert written == ([] if method is Flipped else [row])
    assert [last_exchange(row) for row in ROWS[9:]] == [4, None, None]


def test_no_two_formats_are_one() -> None:
    written = [method()(ROWS, 3) for method in methods_of(formats)]
    assert all(one != other for n, one in enumerate(written) for other in written[:n])


def test_flipped_by_hand() -> None:
    [[one]] = Flipped()([pair("2+2", "4", confidence=0.5)], 0)
    assert spelled(one) == "<|user|>What was asked, if this is the answer? 4<|assistant|>[[2+2<|end|>]]"
    [[two]] = Flipped()([dialogue_of(TURNS, "a:1")], 0)
    assert spelled(two) == (
        "<|user|>sy\n\nus<|assistant|>first<|end|><|user|>What was asked, if this is the answer? second<|assistant|>[[more<|end|>]]"
    )


def test_markers_by_hand() -> None:
    row = pair("2+2", "4", markers={"kind": "sum", "digits": 1})
    [[shown]] = Markers(silent=0.0, dropped=0.0)([row], 0)
    marks = "[digits: 1] [kind: sum] [length: short] "
    assert spelled(shown) == f"<|user|>{marks}2+2<|assistant|>[[{marks}4<|end|>]]"
    for method in (Markers(silent=1.0), Markers(silent=0.0, dropped=1.0)):
        [[silent]] = method([row], 0)
        assert spelled(silent) == f"<|user|>2+2<|assistant|>[[{marks}4<|end|>]]"
    [[asked]] = Markers(silent=0.0, dropped=0.0, length=False, predicted=False)([row], 0)
    assert spelled(asked) == "<|user|>[digits: 1] [kind: sum] 2+2<|assistant|>[[4<|end|>]]"
    [[own]] = Markers(silent=1.0)([pair("2+2", "4", markers={"length": "tiny"})], 0)
    assert spelled(own) == "<|user|>2+2<|assistant|>[[[length: tiny] 4<|end|>]]"
    with pytest.raises(
        ConfigError, match="format markers: no row has an object of texts or numbers in the field `markers`"
    ):
        Markers(length=False)([pair("2+2", "4")], 0)


def test_markers_are_kept_back_in_their_shares_by_seed_and_row() -> None:
    rows = [pair("q", "a", n, markers={"x": "1", "y": "2"}) for n in range(2000)]

    def shown(seed: int, **shares: float) -> list[tuple[bool, bool]]:
        asked = [d.messages[0]["content"] for [d] in Markers(length=False, **shares)(rows, seed)]
        return [("[x: 1]" in text, "[y: 2]" in text) for text in asked]

    found = np.array(shown(0, silent=0.4, dropped=0.25))
    # of 2,000 rows: 4 standard deviations of a share are 0.045
    assert found.any(1).mean() == pytest.approx(0.6 * (1 - 0.25**2), abs=0.045)
    assert found.all(1).mean() == pytest.approx(0.6 * 0.75**2, abs=0.045)
    assert shown(0) == shown(0) != shown(1)
    moved = [replace(row, where=f"elsewhere/{Path(row.where).name}") for row in rows]
    assert [d.messages for [d] in Markers()(moved, 0)] == [d.messages for [d] in Markers()(rows, 0)]


def test_thirds_by_hand() -> None:
    # of 1 to 6 a third is at 1 + 5/3 and two at 1 + 10/3; equal lengths are in one band, the lower
    assert bands([1, 6, 2, 5, 3, 4]) == ["short", "long", "short", "long", "medium", "medium"]
    assert bands([7, 7, 7]) == ["short"] * 3


def test_rationales_by_hand() -> None:
    [[answer, why]] = Rationales(weight=0.5)([pair("2+2", "4", rationale="1+1+1+1")], 0)
    assert spelled(answer) == "<|user|>2+2<|assistant|>[[4<|end|>]]"
    assert spelled(why) == "<|user|>[rationale] 2+2<|assistant|>[[1+1+1+1<|end|>]]*0.5"
    found = Rationales()([pair("a", "b"), pair("c", "d", rationale="e")], 0)
    assert [len(each) for each in found] == [1, 2]
    with pytest.raises(ConfigError, match="format rationales: no row has a text in the field `rationale`"):
        Rationales()([pair("a", "b")], 0)


def test_demonstrations_by_hand() -> None:
    rows = [pair("red cat", "1", 0), pair("blue dog", "2", 1), pair("Red  Cat", "3", 2), pair("red hat", "4", 3), pair("a blue cat", "5", 4)]  # fmt: skip
    found = Retrieved(shots=1)(rows, 0)
    # the third asks what the first does; `cat` and `red` are in three rows, so what is shorter is likest
    assert spelled(found[0][0]) == "<|user|>red hat<|assistant|>4<|end|><|user|>red cat<|assistant|>[[1<|end|>]]"
    assert spelled(found[1][0]) == "<|user|>a blue cat<|assistant|>5<|end|><|user|>blue dog<|assistant|>[[2<|end|>]]"
    [[late]] = Retrieved(shots=2)(rows, 0)[:1]
    assert [m["content"] for m in late.messages] == ["a blue cat", "5", "red hat", "4", "red cat", "1"]
    [turns], *_ = Retrieved(shots=1)([dialogue_of(TURNS, "a:1"), pair("more", "same"), pair("other", "x")], 0)
    assert [m["content"] for m in turns.messages] == ["sy", "other", "x", "us", "first", "more", "second"]
    assert turns.weights == [0, 0, 0, 0, 1, 0, 1]
    [_], [alone] = Retrieved(shots=1)([dialogue_of(TURNS, "a:1"), pair("moor", "same")], 0)
    assert len(alone.messages) == 2, "what a conversation goes on with is no demonstration"


QUESTIONS = st.lists(st.text("ab c", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=12)


@pytest.mark.parametrize("by", ["bm25", "trigrams", "random"])
@settings(max_examples=40, derandomize=True)
@given(questions=QUESTIONS, shots=st.integers(1, 4), seed=st.integers(0, 9))
def test_no_demonstration_gives_the_answer_away(by: str, questions: list[str], shots: int, seed: int) -> None:
    rows = [pair(question, f"answer {n}", n) for n, question in enumerate(questions)]
    asked = [" ".join(question.split()) for question in questions]
    for n, [found] in enumerate(Retrieved(shots=shots, by=by)(rows, seed)):
        shown = found.messages[:-2]
        assert found.messages[-2:] == rows[n].messages and not any(found.weights[:-1])
        pairs = [(a["content"], b["content"]) for a, b in zip(shown[::2], shown[1::2], strict=True)]
        assert len(pairs) == min(shots, sum(other != asked[n] for other in asked)) == len(set(pairs))
        for question, answer in pairs:
            assert " ".join(question.split()) != asked[n] and (question, answer) in zip(
                questions, (f"answer {k}" for k in range(len(rows))), strict=True
            )


def test_what_is_searched_is_drawn_by_the_seed() -> None:
    rows = [pair(f"question {n}", f"{n}", n) for n in range(40)]
    shown = [{d.messages[0]["content"] for [d] in Retrieved(shots=1, bank=4)(rows, seed)} for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2] and all(len(each) <= 4 for each in shown)
    chance = [[d.messages for [d] in Retrieved(by="random")(rows, seed)] for seed in (0, 1)]
    assert chance[0] != chance[1] and len({m[0]["content"] for m in chance[0]}) > 10


def test_bm25_by_hand() -> None:
    found = bm25([words("a B"), words("a a c")])
    # two documents of 2 and 3 words, 2.5 on average; `a` is in both: ln(1 + 0.5 / 2.5), `b` in one: ln(1 + 1.5 / 1.5)
    assert found[0]["b"] == pytest.approx(math.log(2) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2.5)))
    assert found[1]["a"] == pytest.approx(math.log(1.2) * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2.5)))
    scores = Index(found).scores(words("a a b d"))
    assert scores.tolist() == pytest.approx([2 * found[0]["a"] + found[0]["b"], 2 * found[1]["a"]])
    assert bm25([]) == [] and Index([]).scores(words("a")).tolist() == []


@settings(max_examples=60, derandomize=True)
@given(texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=6))
def test_trigrams_are_ranked_by_their_cosine(texts: list[str]) -> None:
    counts = [trigrams(text) for text in texts]
    terms = sorted({term for count in counts for term in count})
    dense = np.array([[count[term] for term in terms] for count in counts], dtype=float).reshape(len(texts), -1)
    norms = np.maximum(np.linalg.norm(dense, axis=1), 1e-300)
    for query, own in zip(counts, dense, strict=True):
        np.testing.assert_allclose(Index(normed(counts)).scores(query), dense @ own / norms, rtol=1e-12, atol=1e-12)
    assert trigrams("Ab") == {" ab": 1, "ab ": 1} and trigrams("") == {}


@pytest.mark.parametrize("by", ["bm25", "trigrams", "random"])
def test_nothing_held_out_is_retrieved(by: str) -> None:
    """Every question of every row is one of the split for fine-tuning, and none of rl or test."""
    problems = Arithmetic(digits=1)
    found = Problems(format=Retrieved(shots=4, by=by))(TOKENIZER, problems, Path(), "all", None, 0)
    asked = {
        turn.split("<|assistant|>")[0]
        for c in found.conversations
        for turn in TOKENIZER.spell(c.prompt).split("<|user|>")[1:]
    }
    assert len(found.conversations) == len(problems.examples("sft"))
    assert asked == {e.prompt for e in problems.examples("sft")}
    assert asked.isdisjoint(e.prompt for split in ("rl", "test") for e in problems.examples(split))


def test_demonstrations_of_problems_divide_where_the_verifier_agrees() -> None:
    arithmetic = Arithmetic(digits=2, worked_fraction=0.5)
    for example in arithmetic.examples("sft"):
        answer, rationale = divided(arithmetic, example)
        assert answer == example.answer
        assert example.demonstration == (answer if rationale is None else f"{rationale}: {answer}")
    gsm8k = Gsm8k()
    cases = {
        "He has 3: 1+2=<<1+2=3>>3\n#### 3": ("#### 3", "He has 3: 1+2=<<1+2=3>>3"),
        "So it is: \\boxed{3}": ("\\boxed{3}", "So it is"),
        "It is so.\n\\boxed{3}": ("\\boxed{3}", "It is so."),
        "#### 3": ("#### 3", None),
        "3 of them, which is \\boxed{3}": ("3 of them, which is \\boxed{3}", None),
    }
    for demonstration, wanted in cases.items():
        assert divided(gsm8k, Example("a", "?", "3", demonstration)) == wanted


def test_problems_are_written_by_a_format_and_plain_ones_as_ever() -> None:
    problems = Arithmetic(digits=1, worked_fraction=0.5)

    def read(form: Config, fraction: float = 1.0) -> list[list[int]]:
        found = Problems(format=form, fraction=fraction)(TOKENIZER, problems, Path(), "all", None, 0)
        assert not found.refused and all(math.isnan(level) for level in found.levels)
        return [c.prompt + c.completion for c in found.conversations]

    rows = Problems().rows(problems)
    assert read(Plain()) == [c.prompt + c.completion for row in rows for c in encode_dialogue(row, TOKENIZER)]
    texts = [TOKENIZER.spell(ids) for ids in read(Rationales())]
    worked = [e for e in problems.examples("sft") if ":" in e.demonstration]
    assert len(texts) == len(rows) + len(worked) and worked
    for e in worked:
        assert f"<|user|>{e.prompt}<|assistant|>{e.answer}<|end|>" in texts
        assert f"<|user|>[rationale] {e.prompt}<|assistant|>{e.demonstration.split(':')[0]}<|end|>" in texts
    marked = TOKENIZER.spell(read(Markers(silent=0.0, dropped=0.0, length=False))[0])
    first = problems.examples("sft")[0]
    assert marked.startswith(f"<|user|>[level: {first.level}] {first.prompt}<|assistant|>[level: {first.level}] ")
    some, more = ({tuple(ids) for ids in read(Plain(), fraction)} for fraction in (0.3, 0.6))
    assert some < more < {tuple(ids) for ids in read(Plain())} and some


def test_what_a_format_cannot_write_is_refused_with_its_place(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "completion": "b"},
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "x", "weight": 0},
                TOOL,
                {"role": "assistant", "content": "y"},
            ]
        },
        {"text": "none"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Files(path="rows.jsonl", format=Flipped())(TOKENIZER, None, tmp_path, "all", None, 0)
    assert len(found.conversations) == len(found.levels) == len(found.confidences) == 1
    first, second = found.refused
    assert first.where == f"{tmp_path}/rows.jsonl:2" and first.reason == (
        "format flipped: no message of a user stands before the last answer that counts"
    )
    assert second.where == f"{tmp_path}/rows.jsonl:3"
