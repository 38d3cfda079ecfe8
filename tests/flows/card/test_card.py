"""Cards of models: read by the Hub's own library, true as they are written, and false after one changed byte."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.card.lineage import lineage_of
from flows.card.text import card_text, cell, table, told
from flows.card.verify import CARD, files_of, mistakes
from tests.project import ROOT
from tests.report.test_current import lock
from tests.report.tree import HOSTILE, METRICS, build


def digest(path: str) -> str:
    """As many hexadecimal digits as DVC's."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline, and an export of its model `rl` with a card."""
    made = build(tmp_path_factory.mktemp("root"))
    stages = lock(made)
    for entry in stages.values():
        entry["outs"] = [{**out, "md5": digest(out["path"])} for out in entry["outs"]]
        entry["deps"] = [
            {**dep, "md5": digest(dep["path"])} if dep["md5"].startswith("md5 of data/") else dep
            for dep in entry["deps"]
        ]
    (made / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    folder = made / "exported"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(64)))
    (folder / "more" / "config.json").write_text("{}\n")
    written = card("exported", "--model", "rl", "--license", "apache-2.0", root=made)
    assert written.returncode == 0 and written.stdout == f"{Path('exported') / CARD}: 4 stages, 2 files\n", (
        written.stderr
    )
    return made


def card(*words: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.card", *words]
    return subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


def test_the_hub_reads_it_with_its_scores(root: Path) -> None:
    found = ModelCard.load(root / "exported" / CARD)
    assert found.data.license == "apache-2.0" and found.data.library_name == "transformers"
    scores = {result.metric_type: result.metric_value for result in found.data.eval_results}
    wanted = {k: v for k, v in METRICS["evaluate@rl"].items() if not k.endswith(("_low", "_high"))}
    assert scores == {k: v for k, v in wanted.items() if k not in ("parameters", "size_bytes")}


def test_it_says_where_the_model_comes_from(root: Path) -> None:
    text = (root / "exported" / CARD).read_text()
    for said in (
        "1,080,250 parameters, 4.32 MB", "| accuracy | 87.5% | 75.0% to 93.8% |", "| bits_per_byte | 1.999 |  |",
        "| dedup | 40 | 31 | duplicate_of 8, empty 1 |", "  method:\n    name: minhash", "| `data/rl` | ",
        f"| `model.safetensors` | `{hashlib.sha256(bytes(range(64))).hexdigest()}` |", "| `more/config.json` | ",
    ):  # fmt: skip
        assert said in text, said


def test_it_is_true_as_it_is_written(root: Path) -> None:
    verified = card("exported", "--verify", root=root)
    assert verified.returncode == 0 and verified.stdout == f"exported/{CARD}: is true\n", verified.stderr
    alone = card("exported", "--verify", "--alone", root=root)
    assert alone.stdout == f"exported/{CARD}: is true of itself and its files\n"


@settings(
    deadline=None, max_examples=120, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_found(root: Path, data: st.DataObject) -> None:
    folder = root / "exported"
    path = folder / data.draw(st.sampled_from([CARD, "model.safetensors", "more/config.json"]))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(32, 126).filter(lambda byte: byte != whole[place]))
    try:
        path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        assert list(mistakes(folder, None))
    finally:
        path.write_bytes(whole)


def test_a_file_more_or_less_is_named(root: Path) -> None:
    folder = root / "exported"
    (folder / "new.bin").write_bytes(b"x")
    try:
        assert list(mistakes(folder, root)) == [f"{folder / 'new.bin'}: is not in the card"]
    finally:
        (folder / "new.bin").unlink()
    moved = (folder / "more" / "config.json").rename(folder / "config.json")
    try:
        assert list(mistakes(folder, None)) == [
            f"{folder / 'config.json'}: is not in the card", f"{folder / 'more/config.json'}: is in the card and not there",
        ]  # fmt: skip
    finally:
        moved.rename(folder / "more" / "config.json")


def test_a_card_that_was_sealed_anew_is_held_to_the_pipeline(root: Path) -> None:
    """Whoever edits a score can write a digest of it; the checkout that made the model says otherwise."""
    folder, lineage = root / "exported", lineage_of(root, "rl")
    path, whole = folder / CARD, (folder / CARD).read_text()
    try:
        lineage.scores["accuracy"] = 0.99
        path.write_text(card_text(lineage, files_of(folder), "", ""))
        assert list(mistakes(folder, None)) == []
        assert list(mistakes(folder, root)) == [f"{path}: accuracy is 0.99, and this checkout's evaluation has 0.875"]
        lineage.scores["accuracy"] = 0.875
        lineage.made["data/rl"] = "0" * 32
        path.write_text(card_text(lineage, files_of(folder), "", ""))
        assert list(mistakes(folder, root)) == [f"{path}: data/rl has another digest in this checkout's dvc.lock"]
    finally:
        path.write_text(whole)


def test_what_is_not_up_to_date_has_no_card(root: Path) -> None:
    path = root / "data" / "metrics" / "dedup.json"
    whole = path.read_text()
    try:
        path.unlink()
        with pytest.raises(
            ValueError, match="dedup is not up to date, so that nothing can be said of rl: make pipeline"
        ):
            lineage_of(root, "rl")
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exported", "--model", "sft"], "no evaluated model 'sft' (there are: pretrain, rl)"),
        (["nowhere", "--model", "data/rl"], "nowhere: no exported model: make export MODEL=data/rl TO=nowhere"),
        (["data", "--verify"], f"data/{CARD}: no such card: make card MODEL=... TO=data"),
        (["exported", "--notes", "none.md"], "No such file or directory: 'none.md'"),
    ],
)
def test_a_mistake_is_one_line(root: Path, words: list[str], said: str) -> None:
    refused = card(*words, root=root)
    assert refused.returncode == 2 and said in refused.stderr and refused.stderr.count("\n") == 1, refused


def test_notes_stand_after_the_opening(root: Path, tmp_path: Path) -> None:
    lineage = lineage_of(root, "rl")
    text = card_text(lineage, {}, "", "Not for medicine.")
    assert text.index("Not for medicine.") > text.index("# rl\n") and text.index("Not for medicine.") < text.index(
        "## Scores"
    )


def test_what_would_break_a_table_is_escaped() -> None:
    assert (
        cell(f"a|b\n{HOSTILE}").startswith("a\\|b &lt;script>") and "\n" not in table(["x"], [["a\nb"]]).split("\n")[2]
    )
    assert [told("accuracy", 0.5), told("accuracy_margin", 1.5), told("steps", 3000), told("loss", 0.123456)] == [
        "50.0%", "1.5", "3,000", "0.1235",
    ]  # fmt: skip
