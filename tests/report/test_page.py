"""The page holds what the stages left, whatever of it is missing, and nothing a document says can break it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.report.render import render
from tasks.report.terminal import table
from tests.report.tree import METRICS, MODELS, build, curves

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed where it must be, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def read(root: Path) -> str:
    return render(root).read_text()


def count(page: Page, tag: str, name: str) -> int:
    return sum(t == tag and attributes.get("class") == name for t, attributes in page.tags)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


def test_strategies_of_decoding_stand_in_the_order_of_what_they_spend(root: Path) -> None:
    assert "Accuracy against tokens spent" not in read(root)
    path = root / "data/metrics/evaluate@rl.json"
    figures = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "passes": 9.5}
    spent = {"majority_8": 81.25, "beam_4": 44.0, "greedy": 9.5}
    more = {f"decoding_{name}_{figure}": value for name in spent for figure, value in figures.items()}
    more |= {f"decoding_{name}_tokens": tokens for name, tokens in spent.items()}
    path.write_text(json.dumps({**METRICS["evaluate@rl"], **more}))
    page = Page(read(root))
    told = page.words.partition("Accuracy against tokens spent")[2]
    found = re.findall(r"rl(greedy|beam_4|majority_8)(\d+\.\d)9\.550\.0%25\.0% to 75\.0%", told)
    assert found == [("greedy", "9.5"), ("beam_4", "44.0"), ("majority_8", "81.2")]


def test_every_figure_is_on_the_page(root: Path) -> None:
    page = Page(read(root))
    for model, bits, accuracy, interval in (
        ("pretrain", "1.875 1.812 to 1.938", "12.5%", "6.2% to 25.0%"),
        ("rl", "1.999", "87.5%", "75.0% to 93.8%"),
    ):
        line = re.search(rf"\n{model}\n([^%]*%[^%]*%[^%]*%[^%]*?)\n\n", page.words)
        assert line, model
        for figure in (bits, accuracy, interval, "4.32 MB", "1,080,250", "4,567"):
            assert figure in line[1], (model, figure)
    assert "gzip -9 needs 2.625" in page.words
    assert "31 kept of 40, 9 dropped (22.5%)" in page.words
    assert "duplicate_of 8" in page.words
    assert "40 kept of 42, 2 dropped (4.8%)" in page.words
    assert "6 of 6 up to date" in page.words
    assert "What it wrote at step 40" in page.words and "upon 40" in page.words
    assert count(page, "svg", "chart") == 2  # loss of pretrain, reward of rl; the rate never moves
    assert "The same at every step: lr 0.1." in page.words and count(page, "svg", "chart scatter") == 1
    assert (
        sum(tag == "details" for tag, _ in page.tags) == 1 + len(MODELS) + 4 + 1 + 3
    )  # sources, answers, examples, samples, params


def test_bits_per_byte_of_a_tokenizer_that_loses_text_are_said_to_be_its_own(root: Path) -> None:
    said = "The tokenizer loses 2.50% of the characters: bits per byte are not comparable with another tokenizer's."
    assert said not in Page(read(root)).words and said not in table(root)
    path = root / "data" / "metrics" / "ingest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "characters_lost": 0.025}))
    assert said in Page(read(root)).words and said in table(root)


def test_text_from_outside_stays_text(root: Path) -> None:
    text = read(root)
    page = Page(text)
    assert "alert('x')" in page.words
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe")]
    assert "\x00" not in text


def test_the_page_asks_for_nothing_else(root: Path) -> None:
    text = read(root)
    assert not [a for _, attributes in Page(text).tags for a in attributes if a in ("src", "href")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_the_same_files_give_the_same_page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = read(root)
    assert read(root) == first
    elsewhere = tmp_path_factory.mktemp("other") / "deeper"
    shutil.copytree(root, elsewhere)
    assert read(elsewhere) == first


def pieces(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def test_any_missing_piece_is_only_absent(root: Path, tmp_path: Path) -> None:
    for piece in pieces(root):
        kept = piece.read_bytes()
        piece.unlink()
        Page(read(root))
        table(root)
        piece.write_bytes(kept)


def test_a_stage_without_metrics_leaves_its_row_blank(root: Path) -> None:
    (root / "data" / "metrics" / "evaluate@rl.json").unlink()
    text = read(root)
    assert "5 of 6 current" in Page(text).words
    assert "1.999" not in text
    assert "87.5%" not in text
    row = next(line for line in table(root).splitlines() if line.startswith("rl "))
    assert set(row.split()[1:]) == {"-"}


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    assert "No stage has left a curve" in Page(read(tmp_path)).words
    assert table(tmp_path) == ""


def test_torn_files_are_named(root: Path) -> None:
    (root / "data" / "pretrain" / "curves.jsonl").write_text('{"step": 0, "loss": 1}\n{"step"')
    with pytest.raises(ValueError, match=r"curves\.jsonl:2"):
        render(root)


def test_a_curve_that_leaves_the_numbers_is_still_drawn(root: Path) -> None:
    curves(
        root / "data" / "rl", [{"step": i, "reward": v} for i, v in enumerate([1.0, float("nan"), float("inf"), 2.0])]
    )
    page = Page(read(root))
    assert "What it wrote at step 40" in page.words and "upon 40" in page.words
    assert count(page, "svg", "chart") == 2


def test_the_terminal_table_lines_up(root: Path) -> None:
    models, beside, work = (block.splitlines() for block in table(root).split("\n\n"))
    assert [line.split()[0] for line in models[1:]] == list(MODELS)
    assert [line.split()[0] for line in work[1:]] == list(METRICS)
    assert len({len(line) for line in models}) == 1 and len({len(line) for line in beside}) == 1
    assert "1.875 (1.812 to 1.938)" in models[1] and "1.999  " in models[2], "where there is no interval, none is shown"
    dedup = next(line for line in work if line.startswith("dedup"))
    assert dedup.split() == ["dedup", "6.5", "300", "MB", "31", "9", "duplicate_of", "8"]
    assert "\x1b" not in table(root)
