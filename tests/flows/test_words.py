"""What is typed after `make`: words that nothing reads are refused, SET holds any YAML, and every command that the documents
name is taken, up to the point where its work begins."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.run import names
from flows.environment import environment
from flows.params.assignments import assignments
from flows.params.make_words import refusal
from flows.workspaces.smoke import copy_project
from tasks.core.yaml import parse_yaml
from tests.forks.process import run_forked
from tests.project import ROOT
from tokenmill import COMMANDS

DOCUMENTS = [ROOT / "README.md", ROOT / "Makefile", ROOT / "mlflow/README.md"]
DOCUMENTS += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "presets").glob("*.yaml"))]
COMMAND = re.compile(
    r"(?:(?<=`)|^[ #]*)((?:[A-Z_]+=\S+ )*make [a-z-]+(?: +[A-Z_]+=(?:\"[^\"\n]*\"|[^\s`\"]+))*)(?=`|\s*$| +#|,)", re.M
)
# Of these the documents' words are tried and the work is not begun.
WORK = {
    "agent",
    "bench",
    "bench-table",
    "chaos",
    "claims",
    "clean",
    "lint",
    "peers",
    "pipeline",
    "plan",
    "preflight",
    "repro",
}
WORK |= {
    "gpu-check",
    "gpu-wheels",
    "test-gpu",
    "mutants",
    "reproduce",
    "serve",
    "setup",
    "smoke",
    "study",
    "test",
    "test-system",
    "ui",
    "variant",
    "audit",
}


def named() -> list[str]:
    """Every command of the documents, once; `<id>` and `...` stand for something."""
    found = {match[1] for path in DOCUMENTS for match in COMMAND.finditer(path.read_text())}
    return sorted({re.sub(r"<[^>]*>|\.\.\.", "x", command) for command in found})


def make(*words: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`make` with the environment that is there, which it neither makes nor brings up to date."""
    surroundings = {**environment(root), "PYTHONPATH": str(root), "TOKENMILL_TRACKING": "off"}
    # -IS: what looks at the words needs nothing that is installed, and starts in a third of the time without
    command = ["make", "-o", ".venv/.ready", f"PYTHON={sys.executable} -IS", *words]
    return subprocess.run(command, cwd=root, env=surroundings, capture_output=True, text=True, check=False)


def typed(command: str) -> tuple[str, ...]:
    """What a command says after `make`."""
    words = shlex.split(command)
    return tuple(words[words.index("make") + 1 :])


@cache
def would_do(words: tuple[str, ...], root: Path) -> subprocess.CompletedProcess[str]:
    """`make -n`, once for those commands that differ in what stands before `make` alone."""
    return make("-n", *words, root=root)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pipeline rl.steps=5", 'SET: make pipeline SET="rl.steps=..."'),
        ("pipeline STEPS=5", "no word 'STEPS'"),
        ("pipeline TARGET=sft", "did you mean 'TARGETS'?"),
        ("pipeline STAGE=sft", "no word 'STAGE'"),
        ("pipeline set=rl.steps=5", "no word 'set'"),
        ("plan TARGETS=sft", "no word 'TARGETS'"),
        ("why SET=rl.steps=5", "(it takes: STAGE)"),
        ("chat STEPS=5", "no word 'STEPS'"),
        ("help STEPS=5", "(it takes: no words)"),
        ("STEPS=5", "no word 'STEPS'"),
        ("pipeline sft", 'make pipeline TARGETS="sft"'),
        ("pipelin", "did you mean 'pipeline'?"),
    ],
)
def test_what_no_command_reads_is_refused_by_name_before_anything_begins(line: str, said: str) -> None:
    done = make(*line.split())
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr


def test_words_of_any_goal_settings_and_those_make_hands_to_what_it_starts_are_taken(tmp_path: Path) -> None:
    assert make("-n", "preflight", "plan", "MACHINE=h100", "SET=seed=1", "TOKENMILL_THREADS=1").returncode == 0
    (tmp_path / "Makefile").write_text(
        (ROOT / "Makefile").read_text() + "\nwithin:\n\t@$(MAKE) help\n\t@echo $(JOBS)\n"
    )
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    done = make("within", "JOBS=7", root=tmp_path)  # the command that is made within it does not read JOBS
    assert done.returncode == 0 and "make pipeline" in done.stdout and done.stdout.rstrip().endswith("7"), done.stderr


def test_every_word_that_a_recipe_hands_on_is_taken() -> None:
    """`$(call arg,AT_ONCE,at-once)` reads AT_ONCE, underscore and all."""
    handed = re.compile(r"^([a-z-]+):|\$\(call arg,([^,)]+),", re.MULTILINE)
    goal, found = "", 0
    for rule, word in handed.findall((ROOT / "Makefile").read_text()):
        goal = rule or goal
        if word:
            found += 1
            assert not refusal((ROOT / "Makefile").read_text(), [goal], [word]), f"make {goal} {word}=x"
    assert found > 30
    assert make("-n", "study", "STUDY=studies/quantizers.yaml", "AT_ONCE=1").returncode == 0


def test_a_word_that_says_no_is_no() -> None:
    assert "--force" in make("-n", "pipeline", "FORCE=1").stdout
    for no in ("0", "no", "false", ""):
        assert "--force" not in make("-n", "pipeline", f"FORCE={no}").stdout


values = st.recursive(
    st.integers() | st.booleans() | st.text("ab '\"\\{}[]:,=#", max_size=6),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), part, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "a.b", "rl.advantage"]), values), max_size=4),
    st.sampled_from([" ", "  ", "\n"]),
)
def test_any_json_is_a_value_and_spaces_separate_assignments(found: list[tuple[str, object]], space: str) -> None:
    pieces = assignments(space.join(f"{key}={json.dumps(value)}" for key, value in found))
    assert [piece.partition("=")[0] for piece in pieces] == [key for key, _ in found]
    assert [parse_yaml(piece.partition("=")[2]) for piece in pieces] == [value for _, value in found]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("rl.steps=50 seed=1", ["rl.steps=50", "seed=1"]),
        ("rl.advantage={name: remax} seed=1", ["rl.advantage={name: remax}", "seed=1"]),
        ("a={b: [1, 2], c: {d: x}}\tseed=1", ["a={b: [1, 2], c: {d: x}}", "seed=1"]),
        ("ingest.folder='/my data' seed=1", ["ingest.folder='/my data'", "seed=1"]),
        ("a.b=it's c.d=that's", ["a.b=it's", "c.d=that's"]),
        ("a.b={c: it's} d=1", ["a.b={c: it's}", "d=1"]),
        ("a={b: 1 c=2", ["a={b: 1 c=2"]),
        ('a=["\\\\"] b=1', ['a=["\\\\"]', "b=1"]),
        ('a="\\" b" c=1', ['a="\\" b"', "c=1"]),
        ("a='it''s b' c=1", ["a='it''s b'", "c=1"]),
        ("a='\\' b=1", ["a='\\'", "b=1"]),
        ("  ", []),
    ],
)
def test_pieces_by_hand(text: str, pieces: list[str]) -> None:
    assert assignments(text) == pieces


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as README and docs leave it: with the presets they show and the method that they add."""
    root = copy_project(ROOT, tmp_path_factory.mktemp("copy"))
    text = "\n".join(path.read_text() for path in DOCUMENTS if path.suffix == ".md")
    presets = re.findall(r"```yaml\n(# (presets/\w+\.yaml).*?)```", text, re.S)
    assert len(presets) == 2
    for written, name in presets:
        (root / name).write_text(written)
    [diff] = re.findall(r"```diff\n(.*?)```", text, re.S)
    for name, body in re.findall(r"^\+\+\+ b/(\S+)\n@@\n(.*?)(?=^---|\Z)", diff, re.S | re.M):
        lines = [line for line in body.splitlines() if line]
        added = [line[1:] for line in lines if line.startswith("+")]
        kept = [line[1:] for line in lines if line.startswith(" ")]
        before = (root / name).read_text().splitlines() if kept else []
        place = before.index(kept[-1]) + 1 if kept else 0
        (root / name).write_text("\n".join([*before[:place], *added, *before[place:], ""]))
    return root


# What such a command does up to its work: the arguments, then parameters and targets. All of them in one process, of the copy.
UP_TO_THE_WORK = """
import json, sys
from argparse import ArgumentParser
from pathlib import Path
from flows.arena.__main__ import arguments as arguments_of_study
from flows.arena.study_options import study_of
from flows.params.assignments import take_words
from flows.params.compose import check, check_targets, compose
parser = ArgumentParser()
take_words(parser)
said = []
for command, arguments in json.loads(Path("asked.json").read_text()):
    asked, _ = parser.parse_known_args(arguments)
    try:
        if command == "study":
            sys.argv[1:] = arguments
            study_of(Path.cwd(), arguments_of_study())
            said.append("")
            continue
        params = compose(Path.cwd(), asked.preset, asked.set)
        check(Path.cwd(), params)
        check_targets(Path.cwd(), params, asked.targets)
        said.append("")
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_every_set_of_the_documents_and_every_word_of_their_commands_composes(copy: Path) -> None:
    texts = {text for path in DOCUMENTS for text in re.findall(r'SET="([^"]*=(?!\.\.\.)[^"]*)"', path.read_text())}
    assert "problems={name: gsm8k, folder: /data/gsm8k}" in texts
    asked = [("pipeline", ["--set", text]) for text in sorted(texts)]
    for words in sorted({typed(command) for command in named()}):
        # a bare `make study` asks for nothing, and says so
        if words[0] not in ("pipeline", "preflight", "plan", "variant", "study") or words == ("study",):
            continue
        found = re.findall(rf"^python -m tokenmill {words[0]} (.*)", would_do(words, copy).stdout, re.M)
        asked += [(words[0], shlex.split(arguments)) for arguments in found]
    assert [arguments for command, arguments in asked if command == "study"]
    (copy / "up_to_the_work.py").write_text(UP_TO_THE_WORK)
    (copy / "asked.json").write_text(json.dumps(asked))
    done = run_forked("up_to_the_work", [], copy, environment(copy))
    assert done.returncode == 0, done.stderr
    assert {str(words): said for words, said in zip(asked, json.loads(done.stdout), strict=True) if said} == {}


@pytest.mark.parametrize("command", named())
def test_every_command_of_the_documents_is_taken(command: str, copy: Path) -> None:
    words = typed(command)
    done = would_do(words, copy)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"python -m benchmarks\.run (\S+)", done.stdout):
        assert name in {*names(), "x"}
    if words[0] in WORK:
        return
    called = re.findall(r"^python -m tokenmill (\S+) *(.*?)(?: \|\| .*)?$", done.stdout, re.M)
    assert len(called) == (words != ("help",))
    for name, arguments in called:
        done = run_forked(
            COMMANDS[name].module, shlex.split(arguments), copy, {**environment(copy), "TOKENMILL_TRACKING": "off"}
        )
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr + done.stdout, done.stderr


def test_there_are_commands_in_the_documents() -> None:
    found = named()
    assert len(found) > 50 and 'make pipeline SET="rl.advantage={name: rloo}"' in found
    assert 'make pipeline PRESET=mine SET="rl.steps=50"' in found and "make why STAGE=pretrain" in found
