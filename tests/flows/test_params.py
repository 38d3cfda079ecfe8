"""Composing parameters: presets, overrides, and one line for each mistake before anything starts."""

import os
import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from flows.params.assignments import Split, take_words
from flows.params.compose import check, check_targets, compose, merge_params, presets, write
from tasks.core.config import ConfigError, read_params
from tasks.dedup.methods import Minhash
from tasks.filter.methods import GopherQuality, GopherRepetition
from tests.forks.process import run_forked
from tests.project import ROOT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def test_the_committed_params_are_the_laptop_preset() -> None:
    assert compose(ROOT, "laptop", []) == compose(ROOT, "current", [])


@pytest.mark.parametrize("preset", presets(ROOT))
def test_every_preset_is_valid(preset: str) -> None:
    check(ROOT, compose(ROOT, preset, []))


@pytest.mark.parametrize("preset", ["gpu-124m", "gpu-1b"])
def test_what_the_default_sets_for_code_does_not_judge_the_web(root: Path, preset: str) -> None:
    params = compose(root, preset, [])
    for slot, method in (("quality", GopherQuality()), ("repetition", GopherRepetition())):
        assert method.model_validate(params["filter"][slot]) == method
    assert params["dedup"]["near"] == {**params["dedup"]["near"], "shingle_words": Minhash().shingle_words}


def test_a_named_mapping_replaces_a_method_and_others_merge() -> None:
    base = {"dedup": {"method": {"name": "minhash", "bands": 3}}, "rl": {"steps": 1, "prompts": 2}}
    change = {"dedup": {"method": {"name": "exact"}}, "rl": {"steps": 5}}
    assert merge_params(base, change) == {"dedup": {"method": {"name": "exact"}}, "rl": {"steps": 5, "prompts": 2}}
    assert merge_params(base, {"dedup": {"method": {"name": "minhash", "rows": 4}}})["dedup"]["method"] == {
        "name": "minhash",
        "bands": 3,
        "rows": 4,
    }


def test_a_number_is_a_number_however_it_is_written_and_survives_the_file(root: Path) -> None:
    params = compose(root, "laptop", ["sft.optimizer.lr=1e-4", "pretrain.optimizer.lr=3E-5"])
    assert params["sft"]["optimizer"]["lr"] == 1e-4 and params["pretrain"]["optimizer"]["lr"] == 3e-5
    write(root, params)
    assert read_params(root / "params.yaml") == params


def test_overrides_are_yaml_and_the_python_is_the_running_one(root: Path) -> None:
    params = compose(
        root, "smoke", ["rl.steps=7", "dedup.near={name: keep_all}", "seed=3", "filter.quality.sources=null"]
    )
    assert (params["rl"]["steps"], params["dedup"]["near"], params["seed"]) == (7, {"name": "keep_all"}, 3)
    assert params["filter"]["quality"]["sources"] is None
    assert params["ingest"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "python" not in compose(root, "prose", [])["ingest"]


def test_an_option_that_is_given_again_adds_to_itself_and_to_no_other_parse() -> None:
    parser = ArgumentParser()
    take_words(parser)
    given = [
        "--set",
        "rl.steps=7 seed=3",
        "--targets",
        "sft",
        "--set",
        "a={b: 1, c: 2}",
        "d=e",
        "--targets",
        "rl evaluate",
    ]
    for _ in range(2):
        asked = parser.parse_args(given)
        assert asked.set == ["rl.steps=7", "seed=3", "a={b: 1, c: 2}", "d=e"]
        assert asked.targets == ["sft", "rl", "evaluate"]
    assert (parser.parse_args([]).set, parser.parse_args([]).targets) == ([], [])
    parser.add_argument("--only", nargs="*", action=Split, split=str.split, default=["all"])
    assert parser.parse_args([]).only == ["all"]
    assert parser.parse_args(["--only", "one", "--only", "two"]).only == ["one", "two"]


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("laptpo", [], "PRESET: no preset 'laptpo'; did you mean 'laptop'?"),
        ("laptop", ["rl.steps"], "SET: 'rl.steps' must read section.key=value"),
        ("laptop", ["rll.steps=5"], "SET: rll.steps: no section 'rll'; did you mean 'rl'?"),
        ("laptop", ["rl.steps=[5"], "SET: rl.steps: '[5' is no YAML value"),
    ],
)
def test_mistakes_of_composition(root: Path, preset: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(root, preset, overrides)
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once(root: Path) -> None:
    overrides = ["rl.stepz=5", "dedup.near={name: minhsh}", "sft.batch=big"]
    with pytest.raises(ConfigError) as caught:
        check(root, compose(root, "laptop", overrides) | {"quantise": {}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and "'steps'" in str(lines) and "'minhash'" in str(lines) and "'quantize'" in str(lines)


def test_targets_are_checked(root: Path) -> None:
    params = compose(root, "laptop", [])
    check_targets(root, params, ["sft", "evaluate", "evaluate@rl"])
    with pytest.raises(ConfigError, match="no stage 'pretrian'; did you mean 'pretrain'"):
        check_targets(root, params, ["pretrian"])


def test_params_are_written_only_when_they_change(root: Path) -> None:
    params = compose(root, "current", [])
    write(root, params)
    before = (root / "params.yaml").stat().st_mtime_ns
    assert not write(root, params) and (root / "params.yaml").stat().st_mtime_ns == before
    assert write(root, compose(root, "current", ["seed=9"])) and read_params(root / "params.yaml")["seed"] == 9


def test_a_mistake_ends_the_command_before_prefect_is_imported(root: Path) -> None:
    (root / "asked.py").write_text(
        "import sys; from flows.pipeline.__main__ import main; code = main();"
        "assert 'prefect' not in sys.modules; sys.exit(code)"
    )
    done = run_forked("asked", ["--set", "rl.stepz=5"], root, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert (
        done.stderr
        == "params.yaml: rl.stepz: unknown key; did you mean 'steps'? (allowed: "
        + done.stderr.partition("(allowed: ")[2]
    )
    assert read_params(root / "params.yaml") == read_params(ROOT / "params.yaml")


def test_a_change_keeps_the_text_of_all_else_and_is_said(root: Path) -> None:
    """There and back is the same text, comments and lists on one line included; a preset and back as well."""
    path = root / "params.yaml"
    path.write_text("# ours\n" + path.read_text().replace("  group: 16", "  group: 16  # of a row"))
    before = path.read_text()
    assert write(root, compose(root, "current", ["quantize.method.group=32"])) == [
        "params.yaml: quantize.method.group 16 -> 32"
    ]
    assert path.read_text() == before.replace("  group: 16", "  group: 32")
    write(root, compose(root, "current", ["quantize.method.group=16"]))
    assert path.read_text() == before and "sources: [stdlib]" in before
    for overrides in (["dedup.near={name: keep_all}"], ["dedup.near={name: semantic}", "filter.quality.sources=null"]):
        assert write(root, compose(root, "smoke", overrides))
        assert read_params(path) == compose(root, "smoke", overrides)
        assert write(root, compose(root, "laptop", [])) and path.read_text() == before


def test_a_change_is_said_as_params_yaml_spells_it(root: Path) -> None:
    asked = ["dedup.near.seed=null", "pretrain.deterministic=true"]
    before = compose(root, "current", [])
    before["pretrain"].pop("deterministic", None)
    write(root, before)
    assert write(root, compose(root, "current", asked)) == [
        "params.yaml: dedup.near.seed - -> null",
        "params.yaml: pretrain.deterministic - -> true",
    ]


def test_many_changes_are_counted_and_a_new_file_is_said(root: Path) -> None:
    said = write(root, compose(root, "gpu-1b", []))
    assert len(said) == 21 and said[-1].startswith("params.yaml: and ") and said[-1].endswith(" more values")
    (root / "params.yaml").unlink()
    assert write(root, compose(root, "laptop", [])) == ["params.yaml: written"]


def test_what_our_own_checks_say_begins_with_no_word_of_pydantic(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^params.yaml: pretrain.model: width must be") as caught:
        check(root, compose(root, "laptop", ["pretrain.model.width=7"]))
    assert "alue error" not in str(caught.value)


def test_which_texts_a_rule_is_for_is_inherited_with_the_sources_alone(root: Path) -> None:
    """README's preset for one's own data, which says nothing of filter, is filtered; presets of the same sources as before."""

    def sources(preset: str) -> list[object]:
        found = compose(root, preset, [])["filter"]
        return [found[slot].get("sources") for slot in ("quality", "repetition")]

    own = "ingest:\n  sources:\n  - {name: jsonl, path: '*.jsonl'}\n"
    (root / "presets/mine.yaml").write_text(own)
    (root / "presets/kept.yaml").write_text(own + "filter:\n  quality: {sources: [jsonl]}\n")
    (root / "presets/less.yaml").write_text("ingest:\n  sources:\n  - {name: stdlib}\n")
    (root / "presets/more.yaml").write_text(
        "ingest:\n  sources:\n  - {name: stdlib}\n  - {name: text_folder, label: web}\n"
    )
    assert [sources(preset) for preset in ("laptop", "smoke", "less")] == [[["stdlib"], ["stdlib"]]] * 3
    assert [sources(preset) for preset in ("mine", "more")] == [[None, None]] * 2
    assert sources("kept") == [["jsonl"], None]
    assert compose(root, "mine", [])["filter"]["quality"]["min_words"] == 20
