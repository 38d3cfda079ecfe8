"""Cards of models: read by the Hub's own library, true as they are written, and false after one changed byte."""

import hashlib
import json
import os
import re
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.card.__main__ import write
from flows.card.lineage import lineage_of
from flows.card.text import SEAL, card_text, cell, digest_of, format_score, table
from flows.card.verify import CARD, files_of, mistakes
from lm.hugging_face.provenance import FILE, write_provenance
from tests.forks.process import run_forked
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
    (made / "data/rl/model.safetensors").write_bytes(bytes(range(32)))
    write_provenance(folder, ["model.safetensors"], made / "data/rl")
    written = card("exported", "--model", "rl", "--license", "apache-2.0", root=made)
    assert written.returncode == 0 and written.stdout == f"{Path('exported') / CARD}: 4 stages, 3 files\n", (
        written.stderr
    )
    return made


def card(*words: str, root: Path) -> subprocess.CompletedProcess[str]:
    return run_forked("flows.card", list(words), root, {**os.environ, "PYTHONPATH": str(ROOT)})


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
    told = card("exported", "--verify", "--json", root=root)
    assert json.loads(told.stdout) == {"card": f"exported/{CARD}", "alone": False, "mistakes": []}


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
        told = card("exported", "--verify", "--json", root=root)
        assert told.returncode == 1 and json.loads(told.stdout)["mistakes"] == ["exported/new.bin: is not in the card"]
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
        assert list(mistakes(folder, root)) == [
            f"{path}: accuracy is 0.99, and this checkout's evaluation has 0.875",
            f"{path}: Scores: '| accuracy | 99.0% | 75.0% to 93.8% |' is '| accuracy | 87.5% | 75.0% to 93.8% |' in this checkout",
        ]
        lineage.scores["accuracy"] = 0.875
        lineage.made["data/rl"] = "0" * 32
        path.write_text(card_text(lineage, files_of(folder), "", ""))
        assert list(mistakes(folder, root)) == [f"{path}: data/rl has another digest in this checkout's dvc.lock"]
    finally:
        path.write_text(whole)


def sealed(text: str) -> str:
    """A card whose text was changed, with its digest made anew."""
    body = text[: text.rindex("<!-- sha256")]
    return body + SEAL.format(digest_of(body))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("| accuracy | 87.5% |", "| accuracy | 99.9% |", "Scores: '| accuracy | 99.9% | 75.0% to 93.8% |' is"),
        ("75.0% to 93.8%", "87.0% to 88.0%", "Scores: '| accuracy | 87.5% | 87.0% to 88.0% |' is"),
        ("| bits_per_byte | 1.999 |  |\n", "", "Scores: '| bits_per_byte_prose "),
        ("1,080,250 parameters, 4.32 MB.", "7,000,000,000 parameters, 4.32 MB.", "does not begin with '1,080,250 par"),
        ("1,080,250 parameters, 4.32 MB.", "1,080,250 parameters, 1.00 MB.", "does not begin with '1,080,250 par"),
        ("| dedup | 40 | 31 | duplicate_of 8", "| dedup | 40 | 40 | duplicate_of 0", "Data: '| dedup | 40 | 40 |"),
        ("steps 60 |", "steps 6000 |", "Training: '| pretrain | parameters 12,345, steps 6000' is"),
        ("name: minhash", "name: exact", "Training: '    name: exact' is"),
        ("## Files\n\n", "## Files\n\nAccuracy 99.9%.\n\n", "Files: 'Accuracy 99.9%.' is"),
        ("## Files\n\n", "Accuracy 99.9%.\n\n## Files\n\n", "Made of: 'Accuracy 99.9%.' is"),
    ],
)  # fmt: skip
def test_every_figure_that_is_read_is_held_to_the_pipeline(root: Path, old: str, new: str, said: str) -> None:
    folder = root / "exported"
    path, whole = folder / CARD, (folder / CARD).read_text()
    assert whole.count(old) == 1
    try:
        path.write_text(sealed(whole.replace(old, new)))
        assert list(mistakes(folder, None)) == []
        (found,) = mistakes(folder, root)
        assert found.startswith(f"{path}: {said}"), found
    finally:
        path.write_text(whole)


def test_how_long_a_stage_took_and_notes_are_nobodys_to_hold(root: Path) -> None:
    folder = root / "exported"
    path, whole = folder / CARD, (folder / CARD).read_text()
    lineage = lineage_of(root, "rl")
    for stage in lineage.stages:
        stage.timings["seconds"] = 12345.0
    try:
        path.write_text(card_text(lineage, files_of(folder), "mit", "## Scores\n\nGood.\n\n## Data\n\nMine."))
        assert "3 h" in path.read_text() and list(mistakes(folder, root)) == []
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exported/model.safetensors": "nonsense"}, "model.safetensors: is not as it was exported"),
        ({"data/rl/model.safetensors": "another run's"}, "was made of other weights than those in data/rl"),
        ({f"exported/{FILE}": "{}"}, "model.safetensors: nothing says what it was made of"),
        ({f"exported/{FILE}": "[1]"}, "made_of.json: does not say what weights were made of"),
        ({"exported/more/other.gguf": "x"}, "more/other.gguf: nothing says what it was made of"),
        ({"exported/model.safetensors": None}, "exported: there are no weights in it"),
        ({"data/rl/model.safetensors": None}, "data/rl/model.safetensors: no such file"),
    ],
)
def test_weights_that_are_not_the_models_have_no_card(root: Path, changes: dict[str, str | None], said: str) -> None:
    before = {name: (root / name).read_bytes() if (root / name).exists() else None for name in changes}
    card_before = (root / "exported" / CARD).read_bytes()
    try:
        for name, text in changes.items():
            (root / name).unlink() if text is None else (root / name).write_text(text)
        asked = Namespace(folder=root / "exported", model="data/rl", license="", notes=None, json=False)
        with pytest.raises(ValueError, match=re.escape(said)) as refused:
            write(asked, root)
        assert "\n" not in str(refused.value)
        assert (root / "exported" / CARD).read_bytes() == card_before
        assert any(said in line for line in mistakes(root / "exported", root))
    finally:
        for name, content in before.items():
            (root / name).unlink(missing_ok=True) if content is None else (root / name).write_bytes(content)


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
    assert [format_score("accuracy", 0.5), format_score("accuracy_margin", 1.5), format_score("steps", 3000), format_score("loss", 0.123456)] == [
        "50.0%", "1.5", "3,000", "0.1235",
    ]  # fmt: skip
