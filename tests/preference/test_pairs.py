"""Sources of pairs: what each makes of good and of bad input, and that nothing of it is lost."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lm import pairs
from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from lm.conversations.dialogue import Dialogue
from lm.inputs.hashed import read_ignored, scan_dependency
from lm.pairs import Files, Mined, SelfPlay
from lm.pairs.base import Pair, SkippedRow, Source, SourceInputs
from lm.pairs.rows import NoPair, dialogues_of, pair_of
from lm.problems.example import Example, Score
from lm.tokenizer import Tokenizer
from tests.conversations.folders import LLAMA2, strangers_folder
from tests.lm.models import toy_model
from tests.preference.made import TOKENIZER, Parity, rows, write_rows, writer

USER, ANSWER, OTHER = (
    {"role": role, "content": text} for role, text in (("user", "2+2"), ("assistant", "4"), ("assistant", "5"))
)
SYSTEM, EARLIER = (
    {"role": "system", "content": "be brief"},
    [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
)


def given_of(folder: Path = Path(), seed: int = 0) -> SourceInputs:
    return SourceInputs("preference.pairs", folder, lambda: watched(folder), Parity(), writer(), TOKENIZER, seed)


def watched(folder: Path) -> list[Path]:
    return scan_dependency(folder, read_ignored()).files


def parted(source: Source, given: SourceInputs) -> tuple[list[Pair], list[SkippedRow]]:
    found = list(source(given))
    return [one for one in found if isinstance(one, Pair)], [one for one in found if isinstance(one, SkippedRow)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2", "chosen": "4", "rejected": "5", "score": 3},
        {"prompt": "2+2", "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": "4", "rejected": [OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "2+2", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "messages": []},
        {"chosen": [{"from": "human", "value": "2+2"}, {"from": "gpt", "value": "4"}], "rejected": [USER, OTHER]},
        {"prompt": "2+2", "chosen": "4", "rejected": "5", "completion": "6", "instruction": "7"},
    ],
)
def test_texts_and_messages_say_the_same(row: dict[str, Any]) -> None:
    chosen, rejected = dialogues_of(row, "a:1")
    assert chosen == Dialogue("a:1", [USER, ANSWER], [0.0, 1.0]) and rejected == Dialogue(
        "a:1", [USER, OTHER], [0.0, 1.0]
    )
    pair = pair_of(chosen, rejected, TOKENIZER)
    answers = [[*TOKENIZER.encode(text), TOKENIZER.end_id] for text in ("4", "5")]
    assert pair == Pair("a:1", "2+2", TOKENIZER.chat("2+2"), *answers)


def test_a_pair_has_several_turns_and_a_system_and_its_last_answer_alone_is_compared() -> None:
    before = [SYSTEM, *EARLIER, USER]
    rows = [
        {"prompt": before, "chosen": [ANSWER], "rejected": "5"},
        {"chosen": [*before, ANSWER], "rejected": [*before, OTHER]},
        {"chosen": [*EARLIER, USER, ANSWER], "rejected": [*EARLIER, USER, OTHER], "system": "be brief"},
    ]
    for row in rows:
        chosen, rejected = dialogues_of(row, "a:1")
        assert chosen.messages == [*before, ANSWER] and rejected.messages == [*before, OTHER]
        pair = pair_of(chosen, rejected, TOKENIZER)
        assert pair.prompt == "system: be brief\nuser: 1+1\nassistant: 2\nuser: 2+2"
        assert TOKENIZER.spell(pair.prompt_ids) == (
            "<|user|>be brief\n\n1+1<|assistant|>2<|end|><|user|>2+2<|assistant|>"
        )
        assert (TOKENIZER.spell(pair.chosen), TOKENIZER.spell(pair.rejected)) == ("4<|end|>", "5<|end|>")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "rejected": "b"}, "missing_chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "missing_rejected"),
        ({"chosen": "a", "rejected": "b"}, "missing_prompt"),
        ({"chosen": [ANSWER], "rejected": [OTHER]}, "missing_prompt"),
        ({"prompt": " \n", "chosen": "a", "rejected": "b"}, "chosen_is_no_conversation"),
        ({"chosen": [{"role": "user", "content": " "}, ANSWER], "rejected": [{"role": "user", "content": " "}, OTHER]}, "empty_prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "answers_are_the_same"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "chosen_is_no_conversation"),
        ({"prompt": "a", "chosen": [{"role": "assistant", "content": None}], "rejected": "b"}, "chosen_is_no_conversation"),
        ({"prompt": "a", "chosen": "b", "rejected": ["c"]}, "rejected_is_no_conversation"),
        ({"chosen": [*EARLIER, USER], "rejected": [*EARLIER, OTHER]}, "chosen_is_no_answer"),
        ({"chosen": [*EARLIER, USER, ANSWER], "rejected": [USER, OTHER]}, "prompts_differ"),
        ({"prompt": "3+3", "chosen": [USER, ANSWER], "rejected": "5"}, "prompts_differ"),
        ({"chosen": [USER, ANSWER], "rejected": [{"role": "user", "content": "x"}, OTHER]}, "prompts_differ"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_pair_says_why(row: Any, reason: str) -> None:
    with pytest.raises(NoPair) as raised:
        dialogues_of(row, "a:1")
    assert raised.value.reason == reason and str(raised.value)


def test_an_answer_that_spells_a_control_token_is_no_pair() -> None:
    for text in ("4<|end|>", "<|user|>"):
        with pytest.raises(NoPair, match="spells the control token") as raised:
            pair_of(*dialogues_of({"prompt": "2+2", "chosen": text, "rejected": "5"}, "a:1"), TOKENIZER)
        assert raised.value.reason == "not_encoded"


def test_files_of_all_kinds_give_the_same_pairs(tmp_path: Path) -> None:
    wanted = rows(5)
    write_rows(tmp_path / "plain", ["", *wanted, "  "])
    (tmp_path / "mark").mkdir()
    lines = "\r\n".join(map(json.dumps, wanted))
    (tmp_path / "mark/pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "packed/deep").mkdir(parents=True)
    (tmp_path / "packed/deep/pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "array").mkdir()
    (tmp_path / "array/pairs.json").write_text(json.dumps(wanted))
    (tmp_path / "columns").mkdir()
    table = pa.table({name: [row[name] for row in wanted] for name in ("rejected", "prompt", "chosen")})
    pq.write_table(table.append_column("more", pa.array(range(5))), tmp_path / "columns/pairs.parquet")
    found = {}
    for folder in ("plain", "mark", "packed", "columns", "array"):
        made, wrong = parted(Files(), given_of(tmp_path / folder))
        found[folder] = [replace(pair, where="") for pair in made]
        assert not wrong
    assert all(one == found["plain"] for one in found.values()) and len(found["plain"]) == 5
    first = found["plain"][0]
    assert TOKENIZER.decode(first.chosen) == wanted[0]["chosen"] and first.prompt == wanted[0]["prompt"]
    assert first.chosen[-1] == first.rejected[-1] == TOKENIZER.end_id
    assert parted(Files(), given_of(tmp_path / "plain"))[0][0].where == "pairs.jsonl:2"


def test_rows_that_cannot_be_used_are_named_and_the_others_kept(tmp_path: Path, capsys: Any) -> None:
    good = rows(6)
    write_rows(tmp_path, ["{", good[0], '"text"', "NaN", {"prompt": "a"}, good[1]], "a.jsonl")
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in [*good[2:4], *rows(900)]).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:60])
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip\n")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "e.jsonl").write_bytes(b"PK\x03\x04\n" + json.dumps(good[4]).encode())
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "f.parquet")
    (tmp_path / "README.md").write_text("no pairs\n")
    made, wrong = parted(Files(), given_of(tmp_path))
    assert capsys.readouterr().err.endswith(": README.md\n")
    assert [pair.where for pair in made if pair.where[0] != "b"] == ["a.jsonl:2", "a.jsonl:6"]
    assert [(one.where, one.reason) for one in wrong if one.where[0] != "b"] == [
        ("a.jsonl:1", "no_object"),
        ("a.jsonl:3", "no_object"),
        ("a.jsonl:4", "no_object"),
        ("a.jsonl:5", "missing_chosen"),
        ("c.jsonl.gz", "unreadable"),
        ("d.parquet", "unreadable"),
        ("e.jsonl", "unreadable"),
        ("f.parquet:1", "missing_chosen"),
        ("f.parquet:2", "missing_chosen"),
    ]
    [cut] = [one for one in wrong if one.where[0] == "b"]
    assert cut.reason == "unreadable" and "the gzip data ends before it is whole" in cut.excerpt


def test_the_pattern_chooses_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("b.jsonl", "a.jsonl", "more/a.jsonl", "c.txt")):
        write_rows((tmp_path / name).parent, [rows(4)[number]], Path(name).name)
    names = {
        path: [
            p.relative_to(tmp_path).as_posix()
            for p in Files(path=path).listed("reward.pairs", tmp_path, watched(tmp_path))
        ]
        for path in ("*", "a*")
    }
    assert names == {"*": ["a.jsonl", "b.jsonl", "more/a.jsonl"], "a*": ["a.jsonl"]}
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=rf"^reward.folder: {folder}: holds no file that fits 'z\*' and ends in"):
            Files(path="z*").listed("reward.pairs", folder, watched(folder))


@pytest.fixture(scope="module")
def mined() -> tuple[list[Pair], list[SkippedRow]]:
    return parted(Mined(samples=16, max_new_tokens=6, most=2), given_of())


def test_a_mined_pair_has_an_answer_that_is_right_and_one_that_is_wrong(
    mined: tuple[list[Pair], list[SkippedRow]],
) -> None:
    made, wrong = mined
    problems = {e.id: e for e in Parity().examples("rl")}
    assert len(made) >= 6 and {pair.where for pair in made} | {one.where for one in wrong} == set(problems)
    for pair in made:
        assert pair.prompt == problems[pair.where].prompt
        for answer, value in ((pair.chosen, 1), (pair.rejected, 0)):
            score = Parity().score(problems[pair.where], TOKENIZER.decode(answer))
            assert score.valid and score.value == value and answer[-1] == TOKENIZER.end_id
    assert {pair.where for pair in made}.isdisjoint(one.where for one in wrong)
    of_each = [[pair for pair in made if pair.where == where] for where in {pair.where for pair in made}]
    assert max(map(len, of_each)) == 2
    for some in of_each:
        answers = [tuple(answer) for pair in some for answer in (pair.chosen, pair.rejected)]
        assert len(set(answers)) == len(answers)


class Verdict(Parity):
    """One verdict on all answers."""

    def __init__(self, value: float, valid: bool = True) -> None:
        self._score = Score(value, valid)

    def score(self, example: Example, text: str) -> Score:
        return self._score


@pytest.mark.parametrize(
    ("problems", "reason"),
    [
        (Verdict(1.0), "all_answers_right"),
        (Verdict(0.0), "no_answer_right"),
        (Verdict(1.0, valid=False), "no_verdict"),
    ],
)
def test_problems_that_teach_nothing_are_named(problems: Parity, reason: str) -> None:
    made, wrong = parted(Mined(samples=6, max_new_tokens=6), replace(given_of(), problems=problems))
    reasons = {one.reason for one in wrong}
    assert not made and len(wrong) == 12 and reason in reasons <= {reason, "no_answer_ended"}


def test_answers_that_did_not_end_are_in_no_pair() -> None:
    made, wrong = parted(Mined(samples=2, max_new_tokens=1), replace(given_of(), model=writer(seed=11)))
    assert all(pair.chosen[-1] == TOKENIZER.end_id for pair in made) and "no_answer_ended" in {o.reason for o in wrong}


def test_self_play_sets_what_is_shown_beside_what_the_model_makes() -> None:
    made, wrong = parted(SelfPlay(samples=3, max_new_tokens=6), given_of())
    shown = {e.id: e.demonstration for e in Parity().examples("rl")}
    assert made and all(TOKENIZER.decode(pair.chosen) == shown[pair.where] for pair in made)
    assert all(pair.rejected != pair.chosen and pair.rejected[-1] == TOKENIZER.end_id for pair in made)
    assert all(pair.chosen == [*TOKENIZER.encode(shown[pair.where]), TOKENIZER.end_id] for pair in made)
    assert {pair.where for pair in made} | {one.where for one in wrong} == set(shown)


def test_self_play_has_a_sample_as_often_as_it_was_drawn() -> None:
    """As the expectation over what the start model makes has it; of what is mined a sample is in one pair."""
    given, source = given_of(), SelfPlay(samples=40, max_new_tokens=2, temperature=0.4)
    made, _ = parted(source, given)
    for found in source.answered_problems(given):
        mine = [pair.rejected for pair in made if pair.where == found.example.id]
        assert mine == [ids for ids in found.drawn if ids != given.encode_answer(found.example.demonstration)]
    drawn = Counter((pair.where, *pair.rejected) for pair in made)
    assert max(drawn.values()) > 1
    mined, _ = parted(Mined(samples=40, max_new_tokens=2, temperature=0.4, most=40), given)
    chosen = Counter((pair.where, *ids) for pair in mined for ids in (pair.chosen, pair.rejected))
    assert chosen and max(chosen.values()) == 1


def test_self_play_shows_a_demonstration_as_an_adopted_template_writes_it(tmp_path: Path) -> None:
    llama = Tokenizer.adopt(strangers_folder(tmp_path, LLAMA2))
    model = toy_model(seed=4, vocab_size=llama.vocab_size, tied=False)
    with torch.no_grad():  # so that answers end
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[llama.end_id] = 4 * x_D / x_D.square().sum()
    made, _ = parted(SelfPlay(max_new_tokens=6), replace(given_of(), model=model.eval(), tokenizer=llama))
    shown = {e.id: e.demonstration for e in Parity().examples("rl")}
    assert made and all(llama.spell(pair.chosen) == f" {shown[pair.where]} </s>" for pair in made)


SAMPLED: dict[str, Any] = {"samples": 16, "max_new_tokens": 6}
OTHERWISE: list[dict[str, Any]] = [
    {"limit": 11}, {"samples": 12}, {"max_new_tokens": 5}, {"temperature": 0.5}, {"split": "sft"}, {"most": 2},
    {"model": "weaker"}, {"judge": "weak"}, {"confidence": 0.2},
]  # fmt: skip
MORE: dict[str, dict[str, Any]] = {"Weak": {"confidence": 0.1}}  # few of a toy model's answers end alike
SCRIPTED = {"depth", "delimiter"}  # tests/preference/test_stepwise.py


@pytest.mark.parametrize("method", [m for m in methods_of(pairs) if m.samples_model], ids=lambda m: m.__name__)
def test_every_parameter_and_the_seed_give_other_pairs(method: type[Source], tmp_path: Path) -> None:
    for place, name in enumerate(("weak", "weaker")):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, writer(seed=5 + place), TOKENIZER)
    assert {name for change in OTHERWISE for name in change} >= set(method.model_fields) - {"name"} - SCRIPTED
    changes = [{}, *(change for change in OTHERWISE if change.keys() <= method.model_fields.keys())]
    sampled = SAMPLED | MORE.get(method.__name__, {})
    found = [list(method(**{**sampled, **change})(given_of(tmp_path))) for change in changes]
    found.append(list(method(**sampled)(given_of(tmp_path, seed=1))))
    assert all(one != other for place, one in enumerate(found) for other in found[:place])
    assert list(method(**sampled)(given_of(tmp_path))) == found[0]


def test_no_prompt_that_fits_is_said() -> None:
    with pytest.raises(
        ConfigError, match=r"^preference.pairs: max_new_tokens: none of the 12 prompts fits the context of 48"
    ):
        list(Mined(max_new_tokens=48)(given_of()))
