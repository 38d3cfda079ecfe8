"""Plain text as problems: how it is cut, what is asked of it, and when an answer is right."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.problems import Segments
from lm.problems.segments import segments_of

TEXT = 'Ann keeps five old hens. "Who feeds them?" asked Ben. Nobody.\nThen it rained for a week (or two.) The yard was mud.'
CUT = [
    "Ann keeps five old hens.",
    '"Who feeds them?" asked Ben.',
    "Nobody. Then it rained for a week (or two.)",
    "The yard was mud.",
]
SPLITS = ("sft", "rl", "test")


def asked(folder: Path, **settings: int) -> list[tuple[str, str]]:
    chosen = Segments(folder=str(folder), **settings)
    return sorted((e.prompt, e.answer) for split in SPLITS for e in chosen.examples(split))


def written(folder: Path, *texts: str) -> Path:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def test_cut_by_hand() -> None:
    assert segments_of(TEXT, 4) == CUT
    assert segments_of("One two. Three four five. Six.", 3) == ["One two. Three four five. Six."]
    assert segments_of("Only this", 4) == ["Only this"] and segments_of(" \n ", 4) == []


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.text("ab.!? \n\"'", max_size=60), st.integers(1, 4))
def test_nothing_is_lost_and_none_but_a_whole_text_is_too_short(text: str, least: int) -> None:
    found = segments_of(text, least)
    assert " ".join(found).split() == text.split()
    assert all(len(segment.split()) >= least for segment in found) or len(found) == 1


def test_each_segment_is_asked_with_what_is_around_it(tmp_path: Path) -> None:
    folder = written(tmp_path, TEXT)
    assert asked(folder) == sorted((" ".join(CUT[:place]), CUT[place]) for place in (1, 2, 3))
    assert asked(folder, before=1) == sorted((CUT[place - 1], CUT[place]) for place in (1, 2, 3))
    between = {(f"{CUT[place - 1]} [...] {CUT[place + 1]}", CUT[place]) for place in (1, 2)}
    assert set(asked(folder, before=1, after=1)) == between
    assert asked(folder, before=9, after=9)[1][0].endswith(f"[...] {CUT[2]} {CUT[3]}")
    longer = 'Ann keeps five old hens. "Who feeds them?"', f"asked Ben. {CUT[2]} {CUT[3]}"
    assert asked(folder, least=6) == [longer]


def test_words_are_asked_behind_those_before_them(tmp_path: Path) -> None:
    """By hand, of the last sentence: none is in its own prompt, and what is left of fewer words is not asked."""
    folder = written(tmp_path, TEXT)
    last = {(prompt, answer) for prompt, answer in asked(folder, before=1, words=1) if prompt.startswith(CUT[2])}
    before = ["", " The", " The yard", " The yard was"]
    assert last == {(CUT[2] + so_far, word) for so_far, word in zip(before, CUT[3].split(), strict=True)}
    three = {(prompt, answer) for prompt, answer in asked(folder, before=1, words=3) if prompt.startswith(CUT[2])}
    assert three == {(CUT[2], "The yard was")}
    chosen = Segments(folder=str(folder), words=1)
    examples = [e for split in SPLITS for e in chosen.examples(split)]
    assert len({e.id for e in examples}) == len(examples) == sum(len(text.split()) for text in CUT[1:])
    assert len({chosen.key(e) for e in examples}) == 1  # a text is in one split
    with pytest.raises(ValueError, match="words: the next ones are asked, with nothing behind them"):
        Segments(words=1, after=1)


def test_a_text_is_in_one_split_whatever_its_white_space(tmp_path: Path) -> None:
    texts = [f"There are {i} of them here. {TEXT}" for i in range(40)]
    chosen = Segments(folder=str(written(tmp_path, *texts, *(text.upper().replace(" ", "  ") for text in texts))))
    places = [{example.id.partition(":")[0] for example in chosen.examples(split)} for split in SPLITS]
    assert all(places) and sum(map(len, places)) == len(set.union(*places)) == 40


def test_right_is_the_segment_behind_what_was_thought(tmp_path: Path) -> None:
    chosen = Segments(folder=str(written(tmp_path, TEXT)))
    (example,) = (e for split in SPLITS for e in chosen.examples(split) if e.answer == CUT[3])
    assert {chosen.score(example, text).value for text in (CUT[3], f" {CUT[3]}\n", f"It rained. #### {CUT[3]}")} == {
        1.0
    }
    wrong = ("", CUT[3][:-1], f"{CUT[3]} Then", f"{CUT[3]} ####", CUT[3].lower())
    assert {chosen.score(example, text).value for text in wrong} == {0.0}


def test_a_segment_with_the_mark_is_left_out_and_a_row_without_text_is_named(tmp_path: Path) -> None:
    assert [
        answer
        for _, answer in asked(written(tmp_path, "One two three four. #### five six seven. Eight nine ten eleven."))
    ] == ["Eight nine ten eleven."]
    written(tmp_path, TEXT, " ")
    with pytest.raises(ConfigError, match=r"texts\.jsonl:2: needs a JSON object with a text `text`: `text` is blank"):
        asked(tmp_path)
