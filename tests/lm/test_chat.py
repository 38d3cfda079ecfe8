"""Chat: a line in, a line out as it is written, the same every time; mistakes are one line."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.chat import answers, banner, main, stream_text, stream_tokens
from lm.checkpoint import save_model
from lm.sampler import generate
from lm.strategies.base import PromptBatch
from lm.strategies.named import strategy_of
from lm.tokenizer import Tokenizer
from tests.conversations.folders import CHATML, strangers_folder
from tests.lm.models import toy_model, toy_tokenizer
from tests.run_main import run_main


def chat(folder: Path, lines: bytes, *more: str) -> subprocess.CompletedProcess[str]:
    return run_main(main, folder, "--max-new-tokens", "3", *more, typed=lines)


def said(lines: list[str], **more: bool) -> list[str]:
    out = io.StringIO()
    answers(toy_model(), toy_tokenizer(), lines, 4, 0.0, 0, out, **more)
    return out.getvalue().split("\n")[:-1]


def test_a_pipe_is_answered_to_its_end(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model(), toy_tokenizer())
    lines = b"1 + 1\n\n\xff broken"
    command = [sys.executable, "-m", "lm.chat", str(tmp_path), "--max-new-tokens", "3"]
    done = subprocess.run(command, input=lines, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == chat(tmp_path, lines).stdout
    assert done.stdout.decode() != chat(tmp_path, lines, "--complete").stdout


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    done = chat(tmp_path / "nothing", b"")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nothing/config.json: no such file" in done.stderr


@pytest.mark.parametrize(
    ("option", "number"),
    [("--max-new-tokens", "0"), ("--max-new-tokens", "-3"), ("--temperature", "-1"), ("--temperature", "nan"),
     ("--temperature", "inf"), ("--seed", "-1"), ("--seed", str(2**63))],
)  # fmt: skip
def test_a_number_that_is_none_is_refused_before_a_model_is_read(
    option: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["chat", "nowhere", f"{option}={number}"])
    with pytest.raises(SystemExit, match=rf"^chat: {option}: {number[:9]}.* (is none|is no length of an answer): .+$"):
        main()


def test_blank_lines_are_skipped_and_long_ones_are_told_so() -> None:
    found = said(["a\n", " \n", "b" * 100, "c"])
    assert len(found) == 3
    assert "prompts must have 1 to 47 tokens" in found[1]
    assert found == said(["a", "b" * 100, "c"])


def test_a_line_that_spells_a_control_token_is_told_so_and_the_next_one_answered(tmp_path: Path) -> None:
    tokenizer, out = Tokenizer.adopt(strangers_folder(tmp_path, CHATML)), io.StringIO()
    model = toy_model(vocab_size=tokenizer.vocab_size)
    answers(model, tokenizer, ["a <|im_end|> b", "a"], 4, 0.0, 0, out)
    (turn,) = generate(model, [tokenizer.chat("a")], 4, 0.0, tokenizer.end_id, 0, rows=1)
    told, _, rest = out.getvalue().partition("\n")
    assert told.startswith("(a prompt spells the control token <|im_end|>")
    assert rest == tokenizer.decode(turn.ids) + "\n"


def test_a_temperature_that_logits_cannot_be_divided_by_is_0() -> None:
    """In fp32 they would be infinite, and no token could be drawn."""
    given: Any = (toy_model(), [5, 6, 7], 6)
    assert list(stream_tokens(*given, 1e-38, -1, 0)) == list(stream_tokens(*given, 0.0, -1, 0))
    assert list(stream_tokens(*given, 1e-6, -1, 0)) == list(stream_tokens(*given, 0.0, -1, 0))


def test_what_is_written_is_what_generate_gives() -> None:
    model, tokenizer = toy_model(), toy_tokenizer()
    (turn,) = generate(model, [tokenizer.chat("a")], 4, 0.0, tokenizer.end_id, 0, rows=1)
    (text,) = generate(model, [tokenizer.encode("a")], 4, 0.0, tokenizer.eos_id, 0, rows=1)
    assert said(["a"]) == tokenizer.decode(turn.ids).split("\n")
    assert said(["a"], complete=True) == tokenizer.decode(text.ids).split("\n")


def test_a_text_begins_as_the_tokenizer_has_texts_begin() -> None:
    model, tokenizer, out = toy_model(), toy_tokenizer(), io.StringIO()
    tokenizer.before = [tokenizer.pad_id] * 47  # as many as there is room for, without the text
    answers(model, tokenizer, ["a"], 4, 0.0, 0, out, complete=True)
    assert "this has 48" in out.getvalue()


def test_a_character_is_written_when_it_is_whole() -> None:
    tokenizer = toy_tokenizer()
    found = list(stream_text(tokenizer, tokenizer.encode("a\N{EURO SIGN}b")))  # a byte a token
    assert found == ["a", "\N{EURO SIGN}", "b", ""]
    cut = list(stream_text(tokenizer, tokenizer.encode("a\N{EURO SIGN}")[:3]))
    assert cut == ["a", tokenizer.decode(tokenizer.encode("a\N{EURO SIGN}")[:3])[1:]]


def test_the_banner_says_what_the_model_was_taught(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "rl"
    assert "it was asked" not in banner(folder, toy_model(), False)
    (tmp_path / "data" / "evaluate" / "rl").mkdir(parents=True)
    table = pa.table({"prompt": ["12+34=", "7-5=", "a\nb", "9+9="]})
    pq.write_table(table, tmp_path / "data" / "evaluate" / "rl" / "answers.parquet")
    assert "problems like '12+34=', '7-5=', 'a b'" in banner(folder, toy_model(), False)
    assert "a text to go on with" in banner(folder, toy_model(), True)


def test_a_strategy_finds_the_answer(tmp_path: Path) -> None:
    """Whole answers, the same as the room's own, each line with a seed of its own; what cannot be is one line."""
    model, tokenizer, out = toy_model(), toy_tokenizer(), io.StringIO()
    strategy = strategy_of('{"name": "majority", "samples": 3, "temperature": 1.5}')
    answers(model, tokenizer, ["a\n", "a\n", "b" * 100], 4, 0.0, 7, out, strategy=strategy)
    asked = [PromptBatch(tokenizer, [tokenizer.chat("a")], ["0"], 4, seed) for seed in (7, 8)]
    expected = [tokenizer.decode(strategy(model, one)[0].ids) for one in asked]
    assert expected[0] != expected[1]
    assert out.getvalue() == f"{expected[0]}\n{expected[1]}\n(prompts must have 1 to 47 tokens; this has 102)\n"
    save_model(tmp_path, model, tokenizer)
    assert chat(tmp_path, b"a", "--strategy", "greedy").stdout == chat(tmp_path, b"a").stdout
    for more, said in (
        (("--strategy", "beem"), "'beem'"),
        (("--strategy", "best_of"), "nobody to score answers"),
        (("--strategy", "greedy", "--temperature", "1"), "--strategy goes without --temperature"),
    ):
        done = chat(tmp_path, b"", *more)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
