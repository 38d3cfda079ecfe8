"""`make show STAGE=sft`: the conversations of the run itself, with what counts in them."""

from pathlib import Path

import pytest

from flows.cli.show import print_examples
from lm.checkpoint import save_model
from tasks.about.examples import FULL, PART, PLAIN, READ, Piece, render_example
from tasks.about.sections import Sections
from tasks.core.yaml import dump_yaml
from tasks.sft.examples import examples
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import TINY


def test_a_run_is_shown_as_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data" / "pretrain").mkdir(parents=True)
    save_model(tmp_path / "data" / "pretrain", toy_model(), toy_tokenizer())
    found = list(examples(Sections(TINY), tmp_path / "data", 3))
    assert len(found) == 3 and len({pieces[0].text for pieces in found}) == 3
    for read, learned in found:
        assert read.weight == 0 and read.text.startswith("<|user|>") and read.text.endswith("=<|assistant|>")
        assert learned.weight == 1 and learned.text.endswith("<|end|>")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(dump_yaml(TINY))
    assert print_examples("sft", 3, False) == 0
    said = capsys.readouterr().out
    assert all(f"{read.text}[[{learned.text}]]" in said for read, learned in found)
    assert print_examples("sft", 1, True) == 0 and '"weight": 1.0' in capsys.readouterr().out


def test_what_has_no_examples_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(dump_yaml(TINY))
    for stage in ("dedup", "nothing", ".", "..", "a.b", "evaluate@rl"):
        assert print_examples(stage, 3, False) == 2
        assert f"show: {stage}: no stage that learns from conversations" in capsys.readouterr().err
    assert print_examples("sft", 3, False) == 2 and "data/pretrain" in capsys.readouterr().err


def test_weights_are_coloured() -> None:
    pieces = [Piece("a", 0), Piece("b", 1), Piece("c", 0.5)]
    assert render_example(pieces, True) == f"{READ}a{PLAIN}{FULL}b{PLAIN}{PART}c{PLAIN}"
    assert render_example(pieces, False) == "a[[b]][[c]]*0.5"


@pytest.mark.parametrize("coloured", [False, True])
def test_the_texts_say_nothing_to_the_terminal(coloured: bool) -> None:
    pieces = [Piece("a\n\tb", 0), Piece("c\x1b[2J\x9b1mc\x07", 1)]
    harmless = [Piece("a\n\tb", 0), Piece("c\ufffd[2J\ufffd1mc\ufffd", 1)]
    assert render_example(pieces, coloured) == render_example(harmless, coloured)
    assert render_example(pieces, coloured).count("\x1b") == (4 if coloured else 0)
