"""Planted faults that need no toy run: each is found before anything starts, in a line that names it."""

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.params.compose import check
from flows.preflight import remote, services
from flows.preflight.__main__ import look_at_all
from flows.preflight.checkpoint import check_checkpoint
from flows.preflight.contracts import check_edges
from flows.preflight.folders import check_writable
from flows.preflight.remote import check_remote
from flows.preflight.resources import Needs, check_disk, check_memory
from flows.preflight.services import check_mlflow, check_prefect
from tasks.about.finding import Finding, findings_of, of_error
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.ingest.inputs import inputs
from tasks.runner.graph import Entry, graph_of
from tests.flows.preflight_project import as_nobody, configure, make_checkpoint, make_project, named, params_of
from tests.ports import free_port
from tests.processes import PATIENCE
from tests.project import ROOT
from tests.small_disk import small_disk


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for waits in (remote, services):  # none of what a test has opened here is late because the machine is busy
        monkeypatch.setattr(waits, "SECONDS", PATIENCE)
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return Path.cwd()


PARAMS = {
    "unknown key": (["rl.stepz=5"], "params.yaml: rl.stepz", "did you mean 'steps'"),
    "unknown method": (["dedup.near={name: minhsh}"], "params.yaml: dedup.near.name", "'minhash'"),
    "wrong type": (["sft.batch=big"], "params.yaml: sft.batch", "'big'"),
    "out of range": (["tokenize.held_out_fraction=2"], "params.yaml: tokenize.held_out_fraction", "less than 1"),
    "heads that do not divide": (["pretrain.model.kv_heads=2"], "params.yaml: pretrain.model", "multiple of kv_heads"),
    "shards no power of two": (["rl.shards=3"], "params.yaml: rl.shards", "power of two"),
    "unknown section": (["rll.steps=1"], "SET: rll.steps", "did you mean 'rl'"),
}


def test_mistakes_in_params_are_told_at_once_with_what_else_is_wrong(project: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOKENMILL_MEMORY", "lots")
    overrides = [change for changes, *_ in PARAMS.values() for change in changes if not change.startswith("rll")]
    found = look_at_all(project, "current", overrides, ["pretrian"])
    for changes, *words in PARAMS.values():
        if not changes[0].startswith("rll"):
            assert named(found, *words), (words, found)
    assert named(found, "TARGETS: no stage 'pretrian'", "'pretrain'") and named(found, "TOKENMILL_MEMORY", "'lots'")
    assert not (project / ".scratch/preflight").exists()
    assert named(look_at_all(project, "current", ["rll.steps=1"], []), *PARAMS["unknown section"][1:])
    assert named(look_at_all(project, "laptpo", [], []), "PRESET", "'laptop'")


FILES: dict[str, tuple[str, Callable[[str], str], list[str]]] = {
    "params.yaml is no YAML": ("params.yaml", lambda text: text + "rl: [1", ["params.yaml", "not valid YAML"]),
    "params.yaml is empty": ("params.yaml", lambda text: "", ["params.yaml", "mapping"]),
    "a section that no stage reads": ("params.yaml", lambda text: text + "quantise: {}\n", ["quantise", "'quantize'"]),
    "dvc.yaml is torn": ("dvc.yaml", lambda text: text[:70] + "\n  x: [", ["dvc.yaml", "git checkout dvc.yaml"]),
    "dvc.lock is torn": (
        "dvc.lock",
        lambda text: text[: text.index("outs:") + 2],
        ["dvc.lock", "git checkout dvc.lock"],
    ),
    "dvc.lock has a conflict": (
        "dvc.lock",
        lambda text: "<<<<<<< HEAD\n" + text,
        ["dvc.lock", "git checkout dvc.lock"],
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_files_that_cannot_be_read(project: Path, fault: str) -> None:
    name, change, words = FILES[fault]
    (project / name).write_text(change((ROOT / name).read_text()))
    assert named(look_at_all(project, "current", [], []), *words)


EDGES: dict[str, tuple[list[str], list[str]]] = {
    "sequence longer than context": (["pretrain.model.context=128"], ["pretrain.model.context", "sequences of 256"]),
    "vocabulary mismatch": (["pretrain.model.vocab_size=4096"], ["pretrain.model.vocab_size", "makes 2048"]),
    "vocabulary of bytes": (
        ["tokenize.method={name: bytes}", "pretrain.model.vocab_size=2048"],
        ["pretrain.model.vocab_size", "makes 261"],
    ),
    "student as deep as its teacher": (["distill.student.layers=6"], ["distill.student.layers", "teacher's 6"]),
    "no room for answers in rl": (["rl.max_new_tokens=255"], ["params.yaml: rl.max_new_tokens", "less 255"]),
    "no room for answers in distill": (["distill.max_new_tokens=300"], ["params.yaml: distill.max_new_tokens"]),
    "no room for answers in evaluate": (["evaluate.max_new_tokens=300"], ["params.yaml: evaluate.max_new_tokens"]),
    "no room in calibration": (
        ["quantize.calibration={max_new_tokens: 300}"],
        ["params.yaml: quantize.calibration.max_new_tokens"],
    ),
    "no demonstration fits": (
        ["pretrain.model.context=4", "curriculum.method.sequence_length=4"],
        ["pretrain.model.context", "too short for sft"],
    ),
    "a rule for a source that is not there": (
        ["ingest.sources=[{name: jsonl, label: web, path: '*.jsonl'}]"],
        ["params.yaml: filter.quality.sources", "labelled 'stdlib'", "name some of web", "=null"],
    ),
    "a rule for one source too many": (
        ["filter.structure={name: fineweb, sources: [stdlib, web]}"],
        ["params.yaml: filter.structure.sources", "labelled 'web'", "stdlib, worksheets"],
    ),
    "a rule for no source": (
        ["filter.quality.sources=[]"],
        ["params.yaml: filter.quality.sources", "nothing is judged"],
    ),
    "a step without a sequence": (["curriculum.tokens_per_step=100"], ["curriculum.tokens_per_step", "one sequence"]),
    "a plan without a step": (["curriculum.tokens=4000"], ["curriculum.tokens", "less than one step of 4096"]),
    "a ramp of parts of a sequence": (
        ["curriculum.ramp.doublings=5"],
        ["curriculum.ramp.doublings", "16 sequences", "32 steps"],
    ),
    "a ramp without a step for each size": (
        ["curriculum.ramp={doublings: 3, share: 0.01}"],
        ["curriculum.ramp.share", "less than one for each of 3"],
    ),
    "a cap of logits that distillation does not know": (
        ["pretrain.model.logit_softcap=15.0"],
        ["params.yaml: pretrain.model.logit_softcap", "divergences"],
    ),
    "windows that grow where there are none": (
        ["pretrain.window_warmup.steps=9"],
        ["params.yaml: pretrain.window_warmup.steps", "no layer"],
    ),
    "windows that are never whole": (
        ["pretrain.window_warmup.steps=219", "pretrain.model.mixer={name: sliding_window}"],
        ["params.yaml: pretrain.window_warmup.steps", "219 steps"],
    ),
    "shards of the smallest step": (
        ["pretrain.shards=8", "curriculum.ramp.doublings=2"],
        ["curriculum.tokens_per_step", "4 rows", "8 shards"],
    ),
    "buckets that do not divide a step": (
        ["curriculum.method={name: length_buckets, max_length: 256}", "curriculum.tokens_per_step=4097"],
        ["curriculum.tokens_per_step", "no multiple"],
    ),
    "shards of pretraining": (
        ["pretrain.shards=8", "curriculum.tokens_per_step=3072"],
        ["curriculum.tokens_per_step", "12 rows", "8 shards"],
    ),
    "shards of sft": (["sft.shards=8", "sft.batch=12"], ["params.yaml: sft.batch", "8 shards"]),
    "shards of rl": (["rl.shards=512"], ["params.yaml: rl.prompts", "128 rows"]),
    "shards of distill": (["distill.shards=8"], ["params.yaml: distill.batch", "52 rows"]),
    "shards of distill beside the smallest step": (
        ["distill.shards=4", "distill.batch=48", "curriculum.ramp.doublings=3"],
        ["params.yaml: distill.batch", "50 rows"],
    ),
    "one answer to a problem": (["rl.samples=1"], ["params.yaml: rl.samples", "grpo is always 0"]),
    "a model's weights with another's tokens": (
        ["pretrain.start={name: hugging_face}"],
        ["tokenize.method.name", "hugging_face for both"],
    ),
    "a policy that begins with masked diffusion": (
        ["pretrain.model.causal=false", "pretrain.objective={name: masked_diffusion}"],
        ["params.yaml: sft.model", "pretrain: the model is one of masked diffusion", "begin with another model"],
    ),
    "strategies for masked diffusion": (
        [
            "pretrain.model.causal=false",
            "pretrain.objective={name: masked_diffusion}",
            "models=[pretrain]",
            "evaluate.decoding=[{name: greedy}]",
        ],
        ["params.yaml: evaluate.decoding", "has no likelihood", "leave it out"],
    ),
    "a vocabulary without a mask": (
        [
            "pretrain.model.causal=false",
            "pretrain.objective={name: masked_diffusion}",
            "pretrain.model.vocab_size=2048",
        ],
        ["pretrain.model.vocab_size", "makes 2049"],
    ),
    "no problem files": (["problems={name: gsm8k, folder: data/problems}"], ["problems.folder", "no *.jsonl"]),
}


def stages_of(params: dict[str, Any]) -> list[Entry]:
    return list(graph_of(ROOT, params).values())


def edges_of(params: dict[str, Any]) -> list[Finding]:
    return check_edges(params, [entry.name for entry in stages_of(params)])


@pytest.mark.parametrize("fault", EDGES)
def test_edge_contracts_that_params_break(project: Path, fault: str) -> None:
    overrides, words = EDGES[fault]
    params = params_of(*overrides)
    check(project, params)
    if "hugging_face" in str(overrides):
        make_checkpoint(project)
    assert named(edges_of(params), *words), edges_of(params)


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


WEIGHTS = "model.safetensors"
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no tokenizer.json": (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json", "no such file"]),
    "no config.json": (lambda f: (f / "config.json").unlink(), ["config.json", "no such file"]),
    "another architecture": (lambda f: edit_json(f / "config.json", model_type="bert"), ["model_type 'bert'"]),
    "weights of another width": (lambda f: edit_json(f / "config.json", intermediate_size=64), ["do not fit", "mlp"]),
    "weights that are torn": (lambda f: os.truncate(f / WEIGHTS, 100), ["weights cannot be read"]),
    "integers": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes().replace(b'"F32"', b'"I32"')),
        ["is I32, and weights are floating-point numbers"],
    ),
    "a deep file": (lambda f: (f / "config.json").write_text("[" * 100_000), ["config.json", "not JSON"]),
    "another model's tokenizer": (
        lambda f: edit_json(f / "config.json", vocab_size=100, eos_token_id=4),
        ["tokenizer.json", "another model's"],
    ),
    "wrong EOS": (lambda f: edit_json(f / "config.json", eos_token_id=99999), ["eos_token_id 99999"]),
}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_checkpoints_that_cannot_be_started_from(project: Path, fault: str) -> None:
    change, words = CHECKPOINTS[fault]
    params = params_of("pretrain.start={name: hugging_face}", "tokenize.method={name: hugging_face}")
    folder = make_checkpoint(project, context=256, layers=3)
    assert findings_of(lambda: check_checkpoint(params, stages_of(params)), lambda: edges_of(params)) == []
    change(folder)
    found = findings_of(lambda: check_checkpoint(params, stages_of(params)))
    assert any(all(word in str(finding) for word in words) for finding in found), found


JSONL = ["ingest.sources=[{name: jsonl, path: '*.jsonl*'}]"]
SOURCES: dict[str, tuple[str, bytes, list[str], list[str]]] = {
    "no file": ("none.txt", b"", JSONL, ["ingest.sources", "no file matches"]),
    "no JSON": ("a.jsonl", b"text\n" * 5, JSONL, ["a.jsonl", "not_json"]),
    "another field": ("a.jsonl", b'{"body": "text"}\n', JSONL, ["a.jsonl", "one usable row"]),
    "torn gzip": ("a.jsonl.gz", gzip.compress(b"x" * 90)[:12], JSONL, ["a.jsonl.gz", "unreadable"]),
    "no such folder": ("a.jsonl", b"", [*JSONL, "ingest.folder=data/nowhere"], ["data/nowhere", "no such folder"]),
}


@pytest.mark.parametrize("fault", SOURCES)
def test_sources_that_give_nothing(project: Path, fault: str) -> None:
    name, content, overrides, words = SOURCES[fault]
    (project / "data/raw" / name).write_bytes(content)
    assert named(findings_of(lambda: inputs(Sections(params_of(*overrides)))), *words)


def test_the_standard_library_of_another_python() -> None:
    params = params_of()
    changed = {**params, "ingest": {**params["ingest"], "python": "3.9.1"}}
    assert named(findings_of(lambda: inputs(Sections(changed))), "ingest.python", "3.9.1")


def test_a_remote_is_written_to_and_left_as_it_was(project: Path, tmp_path: Path) -> None:
    configure(project, f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path / 'remote'}\n")
    assert list(check_remote(project)) == [] and not (tmp_path / "remote").exists()
    (tmp_path / "remote").write_text("a file in its place")
    assert named(list(check_remote(project)), "DVC remote r", "cannot be written to")


def test_remotes_that_are_not_there(project: Path) -> None:
    configure(project, "[core]\n    remote = r\n")
    assert named(list(check_remote(project)), "core.remote r", "no such remote")
    configure(project, f"[core]\n    remote = r\n['remote \"r\"']\n    url = http://127.0.0.1:{free_port()}/store\n")
    assert named(list(check_remote(project)), "DVC remote r", "127.0.0.1", "cannot be written to")


def test_servers_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENMILL_TRACKING", raising=False)
    for uri, words in (
        (f"http://127.0.0.1:{free_port()}", ["does not answer", "make ui"]),
        (f"sqlite:///{tmp_path}/nowhere/mlflow.db", ["no folder", "nowhere"]),
        (f"file://{tmp_path}", ["store of files", "sqlite:///"]),
        (f"postgresql://mill:secret@127.0.0.1:{free_port()}/mlflow", [":***@", "cannot be connected to"]),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert named(list(check_mlflow()), "MLFLOW_TRACKING_URI", *words), list(check_mlflow())
    (tmp_path / "mlflow.db").write_text("no database at all, but long enough to be looked at as one" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert named(list(check_mlflow()), "mlflow.db", "not a database")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    assert named(list(check_prefect()), "PREFECT_API_URL", "does not answer")


@contextmanager
def open_project() -> Iterator[Path]:
    """One that another user than root can reach, which pytest's folders are not."""
    with tempfile.TemporaryDirectory(prefix="preflight-") as name:
        yield make_project(Path(name) / "project")


def test_folders_and_files_that_may_not_be_written() -> None:
    with open_project() as project:
        (project / "data/sft").mkdir()
        cache = project / ".dvc/cache"
        with as_nobody(project.parent):
            assert list(check_writable(project, cache, ["data/sft"])) == []
            for path in ("data/sft", ".dvc", "params.yaml", "data"):
                (project / path).chmod(0o555)
            found = list(check_writable(project, cache, ["data/sft"]))
            for path in ("data", ".dvc"):
                (project / path).chmod(0o755)
        assert named(found, "data: cannot be written") and named(found, "data/sft: cannot be replaced", "chmod -R u+w")
        assert named(found, ".dvc") and named(found, "params.yaml", "chmod u+w")


def test_a_file_where_a_folder_is_to_be(project: Path) -> None:
    (project / "mlflow").mkdir()
    (project / "mlflow/store").write_text("in the way")
    assert named(list(check_writable(project, project / ".dvc/cache", [])), "mlflow/store", "cannot be written")


def test_a_disk_that_is_too_small(project: Path) -> None:
    needs = Needs({"ingest": 4e5}, {"ingest": 1e5})
    assert list(check_disk(project, project / ".dvc/cache", needs, [])) == []
    shutil.rmtree(project / "data")
    with small_disk(project / "data", "256k"):
        found = list(check_disk(project, project / ".dvc/cache", needs, ["data/ingest"]))
    assert named(found, "data: ", "are free on its disk", "make room")


def test_more_disk_and_memory_than_there_are(project: Path) -> None:
    huge = Needs({"ingest": 1e18}, {}, {"rl": 1e15}, {"rl": "lower rl.prompts"})
    assert named(list(check_disk(project, project / ".dvc/cache", huge, [])), "the cache's copy", "dvc gc")
    assert not list(check_memory(huge, {"sft"}))  # rl is sent elsewhere
    assert named(list(check_memory(huge, {"rl"})), "params.yaml: rl", "of memory", "lower rl.prompts")


def test_links_save_the_cache_s_copy(project: Path) -> None:
    free = os.statvfs(project)
    most = Needs({"ingest": 0.7 * free.f_bavail * free.f_frsize})
    assert len(list(check_disk(project, project / ".dvc/cache", most, []))) == 1
    configure(project, "[cache]\n    type = hardlink\n")
    assert list(check_disk(project, project / ".dvc/cache", replace(most), [])) == []


def test_a_mistake_of_a_stage_is_a_finding_of_its_own() -> None:
    found = of_error(ConfigError("params.yaml: a.b: wrong\nparams.yaml: a.c: wrong too"))
    assert [str(one) for one in found] == ["params.yaml: a.b: wrong", "params.yaml: a.c: wrong too"]
