"""Decontamination: planted leaks are found, real prose and worksheets stay."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.problems import Arithmetic
from tasks.core.config import ConfigError
from tasks.core.log import Log
from tasks.filter.methods import Contamination
from tasks.filter.rule import Batch, Setting
from tests.filter.documents import batch_of
from tests.real_text import REAL_TEXT, on_real_text

PROBLEMS = [
    ("A farmer has 17 sheep, and all but 9 run away before dinner; how many sheep are left?", "Nine are left. #### 9"),
    (
        "Maria's train leaves at noon - it travels 60 miles an hour for the first two hours, and then 45 miles an hour until it "
        "reaches the coast, which is 300 miles away. When does she arrive?",
        "She has gone 120 miles by two o'clock, so 180 miles are left, which take 180/45 = 4 hours more: at six. #### 6",
    ),
]
FILLER = "Nobody walked over bridges and nobody looked for lanterns before dawn. " * 30


def prepared(folder: Path, problems=None, **params) -> Contamination:
    rule = Contamination(splits=["sft", "rl", "test"] if problems else [], **params)
    rule.prepare(Setting(folder, problems, folder, Log()))
    return rule


def problem_file(folder: Path, problems=PROBLEMS) -> str:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in problems))
    return str(path)


def found(rule: Contamination, folder: Path, texts: list[str]) -> np.ndarray:
    return np.array([reason is not None for reason in rule.judge(batch_of(texts), folder).reasons])


@pytest.mark.parametrize("ngram", [13, 5])
@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: text.upper(),
        lambda text: "\n".join(f"> {word}" for word in text.split()),
        lambda text: (
            text.replace(" ", "  \t").replace("'", "\N{RIGHT SINGLE QUOTATION MARK}").replace("-", "\N{EM DASH}")
        ),
        lambda text: f"{FILLER}\n**Question:** {text} {FILLER}",
        lambda text: "\N{LEFT DOUBLE QUOTATION MARK}" + text.rstrip("?.") + "\N{RIGHT DOUBLE QUOTATION MARK}",
    ],
    ids=["verbatim", "upper", "wrapped", "spaced", "embedded", "quoted"],
)
def test_a_leak_is_found_however_it_is_set(disguise, ngram: int, tmp_path: Path) -> None:
    rule = prepared(tmp_path, files=[problem_file(tmp_path)], ngram=ngram)
    assert found(rule, tmp_path, [disguise(question) for question, _ in PROBLEMS]).all()
    assert found(rule, tmp_path, [disguise(PROBLEMS[1][1])]).all()
    assert not found(rule, tmp_path, [disguise(FILLER), "", "?"]).any()


def test_the_fraction_by_hand(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(40)]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": " ".join(words), "id": "x"}) + "\n")
    rule = prepared(tmp_path, files=[str(tmp_path / "a.jsonl")], overlap=0.5)
    texts = [
        words[:20],
        words[:19],
        [*words[:13], "and", *words[20:33]],
        words[:12],
        words[:13] + ["no"] * 60 + words[20:33],
    ]
    judged = rule.judge(batch_of([" ".join(text) for text in texts]), tmp_path)
    of = "contaminated_a: x, "
    # 13 + 13 of 40 words within a stretch of 80; the last two stand 86 words apart
    assert list(judged.reasons) == [f"{of}0.50 of it", None, f"{of}0.65 of it", None, None]


def test_joiners_stand_inside_words() -> None:
    """Persian and Hindi have them; a zero width space parts words."""
    from tasks.filter.engine.compiled_terms import next_word

    text = "\u0645\u06cc\u200c\u062e\u0648 \u0915\u094d\u200d\u0937\u200b\u0e01"
    data = np.frombuffer(text.encode(), np.uint8)
    at, found = 0, []
    while at < len(data):
        first, at, _ = next_word(data, at, len(data))
        found.append(bytes(data[first:at]).decode())
    assert found == ["\u0645\u06cc\u200c\u062e\u0648", "\u0915\u094d\u200d\u0937", "\u0e01"]


def test_wording_that_many_problems_share_speaks_for_none(tmp_path: Path) -> None:
    stem = "Read the question with care and then give the one right answer in a single word please:"
    problems = [(f"{stem} {' '.join(f'p{n}q{i}' for i in range(10))}", "x") for n in range(30)]
    rule = prepared(tmp_path, files=[problem_file(tmp_path, problems)], ngram=5)
    assert list(found(rule, tmp_path, [stem * 3, problems[7][0], problems[7][0].split(": ")[1]])) == [False, True, True]


@pytest.mark.parametrize("digits", [1, 2])
def test_sums_are_found_as_lines_and_every_worksheet_stays(digits: int, tmp_path: Path) -> None:
    problems = Arithmetic(digits=digits)
    rule = prepared(tmp_path, problems)
    lines = problems.worksheet_lines(seed=1)
    sheets = ["".join(f"{next(lines)}\n" for _ in range(24)) for _ in range(400)]
    assert not found(rule, tmp_path, sheets).any()
    leaks = [example for split in ("sft", "rl", "test") for example in problems.examples(split)]
    planted = [f"{sheet}{e.prompt}{e.demonstration}\n" for sheet, e in zip(sheets * 20, leaks, strict=False)]
    wrapped = [
        f"text\n  {' '.join(e.prompt)} {e.answer} \r\n{sheet}" for sheet, e in zip(sheets * 20, leaks, strict=False)
    ]
    assert found(rule, tmp_path, planted).all() and found(rule, tmp_path, wrapped).all()
    assert not found(rule, tmp_path, [f"we know that {e.prompt}{e.answer} is so" for e in leaks]).any()


TEXTS = st.lists(
    st.one_of(st.text(max_size=80), st.sampled_from([*(p for pair in PROBLEMS for p in pair), FILLER])),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(TEXTS, st.integers(0, 7))
def test_a_document_is_judged_alone(tmp_path_factory, texts: list[str], cut: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "alone"
    if not folder.exists():
        folder.mkdir()
        prepared(folder, files=[problem_file(folder)])
    judge = Contamination(files=["-"]).judge
    whole = judge(batch_of(texts), folder).reasons
    parts = [judge(batch_of(part), folder).reasons for part in (texts[:cut], texts[cut:]) if part]
    assert whole.shape == (len(texts),) and list(np.concatenate(parts)) == list(whole)
    sliced = batch_of([FILLER, *texts])
    sliced = Batch(0, 1, sliced.sources[1:], sliced.texts[1:], sliced.meta[1:])
    assert list(judge(sliced, folder).reasons) == list(whole)


def test_bad_problem_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": 3, "answer": "b"}\n')
    with pytest.raises(ConfigError, match=r"p\.jsonl:2: needs a JSON object"):
        prepared(tmp_path, files=[str(path)])
    with pytest.raises(ConfigError, match="no such file"):
        prepared(tmp_path, files=[str(tmp_path / "none.jsonl")])
    path.write_text('{"text": "too short"}\n')
    with pytest.raises(ConfigError, match="none of 1 problems can be looked for"):
        prepared(tmp_path, files=[str(path)])


def read_rows(name: str) -> list[dict]:
    with gzip.open(REAL_TEXT / name, "rt") as lines:
        return [json.loads(line) for line in lines]


def prose() -> list[str]:
    return [
        row["text"] for path in sorted((REAL_TEXT / "prose").glob("*.gz")) for row in read_rows(f"prose/{path.name}")
    ]


def edited(text: str, rng: np.random.Generator, rate: float) -> str:
    """The text with that share of its words left out, put twice, or made another word, in equal parts."""
    words = text.split()
    drawn, kind = rng.random(len(words)), rng.integers(3, size=len(words))
    forms = [[w] if d >= rate else ([], [w, w], ["something"])[k] for w, d, k in zip(words, drawn, kind, strict=True)]
    return " ".join(word for form in forms for word in form)


@on_real_text
@pytest.mark.parametrize(("ngram", "light", "heavy"), [(13, 0.75, 0.1), (5, 0.99, 0.7)], ids=["exact", "fuzzy"])
def test_recall_on_planted_leaks_and_false_positives_on_prose(
    ngram: int, light: float, heavy: float, tmp_path: Path, record_property
) -> None:
    rule = prepared(tmp_path, files=[str(REAL_TEXT / "math/gsm8k_train.jsonl.gz")], ngram=ngram)
    texts, rng = prose()[:5000], np.random.default_rng(0)
    assert found(rule, tmp_path, texts).sum() == 0
    questions = [row["question"] for row in read_rows("math/gsm8k_train.jsonl.gz")[::8]]
    hosts = [texts[i] for i in rng.integers(len(texts), size=len(questions))]
    recall = {
        "verbatim": questions,
        "re-wrapped": [f'"{q.replace(" ", chr(10))}"' for q in questions],
        "embedded": [f"{host[:4000]}\n{q}\n{host[4000:]}" for host, q in zip(hosts, questions, strict=True)],
        "5% of words edited": [edited(q, rng, 0.05) for q in questions],
        "15% of words edited": [edited(q, rng, 0.15) for q in questions],
    }
    recall = {how: float(found(rule, tmp_path, leaks).mean()) for how, leaks in recall.items()}
    record_property("recall", recall)
    print(f"ngram {ngram}: {recall}")
    assert recall["verbatim"] == recall["re-wrapped"] == recall["embedded"] == 1.0
    assert recall["5% of words edited"] > light and recall["15% of words edited"] > heavy


def test_a_batch_of_nothing(tmp_path: Path) -> None:
    judged = prepared(tmp_path, files=[problem_file(tmp_path)]).judge(batch_of([]), tmp_path)
    assert len(judged.reasons) == 0 and all(
        len(each) == 0 for each in [*judged.scores.values(), *judged.counts.values()]
    )
