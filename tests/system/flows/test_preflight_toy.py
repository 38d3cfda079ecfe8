"""The toy run of the real graph: the default params pass it, combinations that cannot work do not, and what it and earlier runs
have written is held to its contracts."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.synthetic import repository
from flows.environment import environment
from flows.preflight.artifacts import check_artifacts, check_corpus
from flows.preflight.passed import digest, recall, remember
from flows.preflight.shrink import shrunk
from flows.preflight.start import look
from flows.preflight.toy_run import rehearse, rehearse_stage
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.about.training import is_training_stage
from tasks.core.config import load
from tasks.core.yaml import read_yaml
from tasks.ingest.stage import IngestConfig
from tasks.ingest.toy import DOCUMENTS, sample_sources
from tasks.runner.graph import read_graph, upstream, with_upstream
from tests.conversations.folders import CHATML, strangers_folder
from tests.flows.preflight_project import good_run, make_checkpoint, make_project, params_of
from tests.project import DATA_STAGES, ROOT

GRAPH = read_graph(ROOT)
WHO = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
SMALL = (
    "ingest.sources=[{name: worksheets, digits: 1}]",
    "filter.quality={name: keep_all}",
    "filter.repetition={name: keep_all}",
)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process of the rehearsal: nothing of it goes to other processes."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


def test_the_default_params_give_no_finding_and_a_forecast() -> None:
    good = good_run()
    assert good.found == []
    assert {path.name for path in (good.folder / "data").iterdir()} == {entry.name for entry in GRAPH.values()}
    assert set(good.needs.memory) == {entry.name for entry in GRAPH.values() if is_training_stage(entry.name)}
    assert all(3e8 < needed < 4e9 for needed in good.needs.memory.values())


def test_the_forecast_of_the_disk_covers_what_the_default_run_wrote() -> None:
    locked = read_yaml(ROOT / "dvc.lock")["stages"]
    # what is off by default has written nothing
    forecast = {name: size for name, size in good_run().needs.outputs.items() if name in locked}
    written = sum(out["size"] for name in forecast for out in locked[name]["outs"])
    assert written < sum(forecast.values()) < 2 * written


def test_a_corpus_with_a_chat_template_of_its_own_is_whole(tmp_path: Path) -> None:
    """As a tokenizer that was adopted with its template leaves it."""
    shutil.copytree(good_run().folder / "data" / "tokenize", tmp_path / "tokenize")
    adopted = Tokenizer.adopt(strangers_folder(tmp_path / "model", CHATML))
    adopted.save(tmp_path / "tokenize")
    adopted.save_contract(tmp_path / "tokenize")
    found = [str(finding) for finding in check_corpus(tmp_path / "tokenize")]
    assert not [line for line in found if "template" in line or "turn" in line], found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the toy run wrote, to be tampered with."""
    return shutil.copytree(good_run().folder / "data", tmp_path / "data")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def tokens(data: Path, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """change: from the tokens and the ends of documents to other tokens."""
    path, table = data / "tokenize/tokens.npy", pq.read_table(data / "tokenize/documents.parquet")
    ends = table["start"].to_numpy() + table["length"].to_numpy()
    np.save(path, change(np.load(path), ends))


def without_eos(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    ids[ends - 1] = 1  # the padding token
    return ids


def with_unknown_token(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    ids[ends - 2] = 60_000
    return ids


def swap_specials(values: dict[str, Any]) -> None:
    specials = values["specials"]
    specials["<|user|>"], specials["<|assistant|>"] = specials["<|assistant|>"], specials["<|user|>"]


def swap_in_tokenizer(path: Path) -> None:
    path.write_text(
        path.read_text().replace("<|user|>", "<|x|>").replace("<|pad|>", "<|user|>").replace("<|x|>", "<|pad|>")
    )


def cut_documents(data: Path) -> None:
    path = data / "tokenize/documents.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)


ARTIFACTS: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "wrong EOS": ("tokenize", lambda d: tokens(d, without_eos), ["tokens.npy", "not with EOS"]),
    "a token that there is not": (
        "tokenize",
        lambda d: tokens(d, with_unknown_token),
        ["tokens.npy", "has token 60000"],
    ),
    "a dtype too narrow": (
        "tokenize",
        lambda d: tokens(d, lambda ids, _: ids.astype(np.uint8)),
        ["tokens.npy", "uint8 cannot hold"],
    ),
    "a signed dtype": (
        "tokenize",
        lambda d: tokens(d, lambda ids, _: ids.astype(np.int64)),
        ["tokens.npy", "int64 cannot hold"],
    ),
    "tokens that are cut off": (
        "tokenize",
        lambda d: tokens(d, lambda ids, _: ids[:100]),
        ["tokens.npy", "has 100 tokens"],
    ),
    "reordered special tokens of the corpus": (
        "tokenize",
        lambda d: edit(d / "tokenize/contract.json", swap_specials),
        ["tokenizer.json", "specials is"],
    ),
    "a special token less": (
        "tokenize",
        lambda d: edit(d / "tokenize/contract.json", lambda v: v["specials"].pop(SPECIALS[0])),
        ["contract.json", "its special tokens are"],
    ),
    "another chat template": (
        "tokenize",
        lambda d: edit(d / "tokenize/contract.json", lambda v: v.update(turn="[INST]{prompt}")),
        ["tokenizer.json", "turn is"],
    ),
    "a contract of another kind": (
        "tokenize",
        lambda d: (d / "tokenize/contract.json").write_text('{"a": 1}'),
        ["contract.json", "not the contract"],
    ),
    "a plan of another corpus": ("curriculum", cut_documents, ["plan.parquet", "documents.parquet", "has 3"]),
    "reordered special tokens of a model": (
        "sft",
        lambda d: swap_in_tokenizer(d / "sft/tokenizer.json"),
        ["sft/tokenizer.json", "specials is"],
    ),
    "a model of another tokenizer": (
        "rl",
        lambda d: edit(d / "rl/config.json", lambda v: v["contract"].update(tokenizer_sha256="0")),
        ["rl/config.json", "another tokenizer than"],
    ),
    "a model with too small a vocabulary": (
        "pretrain",
        lambda d: edit(d / "pretrain/config.json", lambda v: v["model"].update(vocab_size=300)),
        ["pretrain/config.json", "less than the tokenizer's"],
    ),
    "a student with another vocabulary": (
        "distill",
        lambda d: edit(d / "distill/config.json", lambda v: v["model"].update(vocab_size=4096)),
        ["distill/config.json", "not that of", "rl"],
    ),
    "a model of a shorter context": (
        "pretrain",
        lambda d: edit(d / "pretrain/config.json", lambda v: v["model"].update(context=64)),
        ["pretrain/config.json", "context 64 is shorter"],
    ),
    "a model without weights": (
        "quantize",
        lambda d: (d / "quantize/model.safetensors").unlink(),
        ["quantize/model.safetensors", "no such file"],
    ),
    "an output that is gone": ("dedup", lambda d: shutil.rmtree(d / "dedup"), ["dedup", "dvc checkout"]),
}


@pytest.mark.parametrize("fault", ARTIFACTS)
def test_artifacts_that_break_a_contract(data: Path, fault: str) -> None:
    stage, change, words = ARTIFACTS[fault]
    assert check_artifacts(data, GRAPH, [stage]) == []
    change(data)
    found = [str(finding) for finding in check_artifacts(data, GRAPH, [stage])]
    assert any(all(word in line for word in words) for line in found), found


COMBINATIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "a filter that leaves nothing": (
        "filter",
        ["filter.quality={name: gopher_quality, sources: null, min_words: 1000000, max_words: 2000000}"],
        ["filter (toy run)"],
    ),
    "a reference set that is not there": (
        "dedup",
        ["dedup.against={name: against, folder: data/references}"],
        ["dedup (toy run)", "data/references"],
    ),
    "an order by scores that nobody gave": (
        "curriculum",
        ["curriculum.order={name: by_score, score: rating}"],
        ["curriculum (toy run)", "no score 'rating'"],
    ),
    "a rate at which training diverges": (
        "sft",
        ["sft.optimizer={name: adamw, lr: 1.0e+30}"],
        ["sft (toy run)"],
    ),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("fault", COMBINATIONS)
def test_combinations_that_cannot_work(data: Path, fault: str) -> None:
    stage, overrides, words = COMBINATIONS[fault]
    shutil.rmtree(data / stage)
    toy = shrunk(params_of(*overrides), [entry.name for entry in GRAPH.values()], data.parent)
    (line,) = map(str, rehearse_stage(GRAPH[stage], toy, data.parent, {}))
    assert all(word in line for word in words) and f"change the section {stage}" in line and "\n" not in line


@pytest.mark.usefixtures("alone")
def test_what_follows_a_failed_stage_is_left_out(tmp_path: Path) -> None:
    params = params_of("ingest.max_bytes=1")
    toy = tmp_path / "toy"
    toy.mkdir()
    params = {**params, "tokenize": {**params["tokenize"], "method": {"name": "bpe", "vocab_size": 12}}}
    params = {**params, "ingest": {**params["ingest"], "sources": [{"name": "worksheets"}]}}
    (finding,) = rehearse(params, GRAPH, ["curriculum"], toy)
    assert "tokenize (toy run)" in str(finding) and not (toy / "data/curriculum").exists()


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_is_stood_in_for_by_a_narrow_model_of_its_kind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    make_checkpoint(Path.cwd(), width=96, layers=4, heads=6, context=128)
    hugging_face = [f"{slot}={{name: hugging_face}}" for slot in ("pretrain.start", "tokenize.method")]
    params = params_of(*hugging_face, preset="smoke")
    (tmp_path / "toy").mkdir()
    assert rehearse(params, read_graph(), ["pretrain"], tmp_path / "toy") == []
    described = json.loads((tmp_path / "toy/data/pretrain/config.json").read_text())["model"]
    assert (described["width"], described["layers"], described["context"]) == (16, 2, 128)


@pytest.mark.usefixtures("alone")
def test_a_sample_of_files_has_their_labels_and_some_of_their_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    for number in range(5):
        rows = [json.dumps({"id": f"{number}-{row}", "text": "word " * row, "lang": "en"}) for row in range(200)]
        Path(f"data/raw/{number}.jsonl").write_text("\n".join(["no JSON", *rows]))
    config = load(
        "ingest",
        IngestConfig,
        params_of("ingest.sources=[{name: jsonl, label: web, path: '*.jsonl'}, {name: worksheets}]"),
    )
    web, worksheets = sample_sources(config, tmp_path / "raw")
    lines = [json.loads(line) for line in (tmp_path / "raw" / web["path"]).read_text().splitlines()]
    assert web["label"] == "web" and worksheets["name"] == "worksheets"
    assert len(lines) == DOCUMENTS and {line["id"][0] for line in lines} == {"0", "2", "4"}
    assert lines[7] == {"id": "0-7", "text": "word " * 7, "lang": "en"}


def test_stages_and_what_they_need_in_order() -> None:
    order = with_upstream(GRAPH, ["evaluate@sft"])
    assert set(order) == {"ingest", "dedup", "filter", "tokenize", "curriculum", "pretrain", "sft", "evaluate@sft"}
    edges = upstream(GRAPH)
    assert all(order.index(other) < order.index(address) for address in order for other in edges[address])


def test_a_passed_rehearsal_is_remembered_by_all_that_could_change_it(tmp_path: Path, monkeypatch) -> None:
    project = make_project(tmp_path / "project")
    monkeypatch.chdir(project)
    (project / "lm").unlink()
    shutil.copytree(ROOT / "lm", project / "lm")
    params = params_of()
    first = digest(project, params, GRAPH)
    assert digest(project, params_of(), GRAPH) == first
    assert recall(project, first, ["sft"]) is None
    remember(project, first, ["sft", "rl"], {"memory": {"rl": 1.0}})
    assert recall(project, first, ["sft"]) == {"memory": {"rl": 1.0}} and recall(project, first, ["distill"]) is None
    assert digest(project, params_of("seed=1"), GRAPH) != first
    for path, text in ((project / "lm/chat.py", "# changed\n"), (project / "dvc.yaml", "# changed\n")):
        before_it = digest(project, params, GRAPH)
        path.write_text(path.read_text() + text)
        assert digest(project, params, GRAPH) != before_it
    before_it = digest(project, params, GRAPH)
    (project / "data/problems/new.jsonl").write_text("{}\n")
    assert digest(project, params, GRAPH) != before_it


def test_a_second_start_does_not_pay_again(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    project = make_project(tmp_path / "project")
    monkeypatch.chdir(project)
    remember(project, digest(project, params_of(), read_graph(project)), list(GRAPH), good_run().needs.to_json())
    assert look(project, params_of(), list(GRAPH)) == []
    assert "toy width" not in capsys.readouterr().out


def test_a_graph_of_other_stages_pays_nothing(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repository", 3)
    done = preflight_in(folder)
    assert (done.returncode, done.stdout) == (0, "preflight: nothing to mend\n"), done.stderr
    assert not (folder / ".scratch/preflight").exists()


def preflight_in(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.preflight"]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def test_what_passed_is_not_rehearsed_again_for_another_parameter_after_it(tmp_path: Path, monkeypatch) -> None:
    """Another parameter of a stage has that stage and what follows it tried alone, also in another worktree; what fails is tried
    again."""
    project = make_project(tmp_path / "project")
    monkeypatch.chdir(project)
    for command in (["init", "-q"], ["add", "-A"], [*WHO, "commit", "-qm", "x"], ["worktree", "add", "-q", "../other"]):
        subprocess.run(["git", *command], cwd=project, check=True)

    def rehearsed(folder: Path, targets: list[str], *overrides: str) -> tuple[list[str], list[str]]:
        said: list[str] = []
        monkeypatch.chdir(folder)
        found = look(folder, params_of(*SMALL, *overrides), targets, said.append)
        return [line.split()[1] for line in said if line.startswith("rehearsing")], list(map(str, found))

    asked = [*DATA_STAGES]
    assert rehearsed(project, asked) == (asked, [])
    assert rehearsed(project, asked) == ([], [])
    assert rehearsed(project, asked, "curriculum.method.sequence_length=64") == (["curriculum"], [])
    assert rehearsed(project, asked, "tokenize.method={name: bytes}") == (["tokenize", "curriculum"], [])
    other = tmp_path / "other"
    assert rehearsed(other, asked) == ([], [])
    assert rehearsed(other, asked, "curriculum.method.sequence_length=32") == (["curriculum"], [])
    broken = "tokenize.method={name: bpe, vocab_size: 12}"
    for _ in range(2):
        tried, found = rehearsed(project, asked, broken)
        assert tried == ["tokenize"] and any("tokenize (toy run)" in line for line in found)
    assert not (other / ".scratch/preflight/toys").exists()
