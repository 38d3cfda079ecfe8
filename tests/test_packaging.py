"""What people and machines read of the project beside its code: metadata, Dockerfile, citation, changelog, agents' page."""

import re
import tomllib
from pathlib import Path

import yaml
from pathspec import GitIgnoreSpec

from tasks.runner.graph import read_graph
from tests.project import ROOT
from tokenmill import COMMANDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = (ROOT / "constraints.txt").read_text()


def instructions() -> list[tuple[str, str]]:
    """(word, arguments) of each instruction of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def test_the_dockerfile_is_as_its_linters_want_it() -> None:
    found = instructions()
    words = [word for word, _ in found]
    assert words[0] == "FROM" and set(words) <= {
        "FROM",
        "RUN",
        "WORKDIR",
        "COPY",
        "ENV",
        "ARG",
        "USER",
        "ENTRYPOINT",
        "CMD",
    }
    base = found[0][1]
    version = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base)
    assert version and f">={version[1]}" in PROJECT["project"]["requires-python"], "a version, not what is latest"
    users = [rest for word, rest in found if word == "USER"]
    assert users and users[-1] not in ("root", "0") and words.index("USER") < words.index("ENTRYPOINT")
    for word, rest in found:
        if word == "RUN" and "apt-get install" in rest:
            assert (
                "apt-get update" in rest and "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest
            )
        if word == "RUN":
            assert "sudo" not in rest and "curl" not in rest
        if word == "WORKDIR":
            assert rest.startswith("/")
        if word in ("ENTRYPOINT", "CMD"):
            assert rest.startswith("[") and rest.endswith("]"), "the form that gets signals"
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), rest


def test_the_image_has_the_pins_and_the_command() -> None:
    found = instructions()
    installs = " ".join(rest for word, rest in found if word == "RUN" and "pip install" in rest)
    assert (
        "-c constraints.txt" in installs
        and "grep '^torch==' constraints.txt" in installs
        and re.search("^torch==", PINS, re.M)
    )
    extras = re.search(r"-c constraints.txt -e '\.(\[[^]]*\])'", (ROOT / "Makefile").read_text())
    assert extras and f"-c constraints.txt '.{extras[1]}'" in installs, "what make setup installs"
    assert ("ENTRYPOINT", '["tokenmill"]') in found
    needed = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "tokenmill.py"}
    first = next(rest for word, rest in found if word == "COPY")
    assert needed <= set(first.split()), "what building the project's metadata reads"


def test_what_is_large_or_secret_stays_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".venv*", ".scratch", ".dvc/cache", ".dvc/tmp", "mlflow/store", ".variants"} <= set(ignored)
    left_out = GitIgnoreSpec.from_lines(ignored)  # Docker's patterns of this file mean what git's do
    outputs = {"/".join(Path(out).parts[:2]) for entry in read_graph(ROOT).values() for out in entry.outs}
    for name in (*outputs, "data/a_stage_more", "data/report", "data/timings"):
        assert left_out.match_file(f"{name}/file"), name
    for path in (ROOT / "data").glob("*/README.md"):
        assert not left_out.match_file(f"data/{path.parent.name}/a/file"), path
    assert not left_out.match_file("data/metrics/rl.json")


def test_the_citation_is_one_and_of_this_version() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found) and found["authors"]
    assert (found["version"], found["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])


def test_the_changelog_has_this_version_and_what_comes_after_it() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == "Unreleased" and PROJECT["project"]["version"] in heads


def test_every_tool_of_the_groups_is_pinned() -> None:
    groups = PROJECT["dependency-groups"]
    names = [re.split(r"[\[; ]", name)[0] for group in groups.values() for name in group if isinstance(name, str)]
    assert {"include-group": "test"} in groups["dev"] and {"include-group": "lint"} in groups["dev"]
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", PINS, re.M | re.I)] == []


def test_agents_are_told_of_commands_and_files_that_there_are() -> None:
    text = (ROOT / "AGENTS.md").read_text()
    assert set(re.findall(r"tokenmill ([a-z]+)\b", text)) <= set(COMMANDS)
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`((?:docs|tests|benchmarks|presets)/[\w./-]+)`", text)
    assert links and [link for link in links if not Path(ROOT / link).exists()] == []
