"""Settings of what runs the pipeline, and the table of all there are: `python -m flows.settings` prints docs/settings.md."""

import argparse
import sys
from typing import Any

from lm import settings as of_stages
from lm.config import ConfigError
from lm.settings import Setting, seconds, text
from tasks.runner import settings as of_the_runner
from tasks.runner.answer import add_json_option, print_json


def port(name: str, default: int, meaning: str, *, reader: str) -> Setting[int]:
    """A port of this machine."""

    def parse(given: str) -> int:
        if not (given.isascii() and given.isdecimal() and int(given) <= 65535):
            raise ValueError(given)
        return int(given)

    return Setting(
        name, default, str(default or "any free one"), "a port, or 0 for any free one", meaning, parse, reader
    )


POOLS = text(
    "TOKENMILL_POOLS", "", "names with commas between", "pools of agents that stages are sent to, by `meta: {pool: ...}`",
    unset="every stage runs here", reader="pipeline",
)  # fmt: skip
AGENT_DEADLINE = seconds(
    "TOKENMILL_AGENT_DEADLINE",
    90.0,
    "seconds without a sign of life after which an agent counts as dead",
    least=1,
    reader="pipeline",
)
STOP = seconds(
    "TOKENMILL_STOP_SECONDS",
    20.0,
    "seconds that a stage which is told to end has for saving what it did, after which it is killed",
    least=1,
    reader="pipeline",
)
DASK = text(
    "TOKENMILL_DASK", "", "the address of a scheduler", "scheduler of the Dask cluster that `flows.shards:on_dask` works on",
    unset="a cluster of processes of this machine", reader="stage",
)  # fmt: skip
TEMPORARY_PREFECT_PORT = port(
    "TOKENMILL_TEMPORARY_PREFECT_PORT", 0, "port of the server that a run without one begins", reader="pipeline"
)
AGENT = text(
    "TOKENMILL_AGENT", "", "a name", "name of this agent", unset="that of the machine and the folder", reader="agent"
)
GIT_REMOTE = text(
    "TOKENMILL_GIT_REMOTE", "origin", "a remote", "git remote that an agent gets revisions of", reader="agent"
)
PREFECT_PORT = port("TOKENMILL_PREFECT_PORT", 4200, "port of Prefect's pages", reader="ui")
MLFLOW_PORT = port("TOKENMILL_MLFLOW_PORT", 5000, "port of MLflow's pages", reader="ui")
REPORT_PORT = port("TOKENMILL_REPORT_PORT", 5001, "port of the report", reader="ui")
PASSWORD = text(
    "TOKENMILL_PASSWORD", None, "12 or more characters of printable ASCII",
    "password of all pages, and key of `make serve`; set and empty: none asks for one",
    unset="one is made for each start, and printed", reader="ui",
)  # fmt: skip

PASSED_ON = [
    of_the_runner.passed_on("TOKENMILL_ROOT", "the checkout that a flow brings up to date"),
    of_the_runner.passed_on("TOKENMILL_MLFLOW_URL", "MLflow's pages, for links to them"),
    of_the_runner.passed_on("TOKENMILL_REPORT_URL", "the report, for links to it"),
]
OF_TESTS = [
    text(
        "TOKENMILL_CHAOS",
        "",
        "all",
        "every fault in place of twelve, every edit of a stage that runs in place of a few (`make chaos`)",
        reader="tests",
    ),
    text(
        "TOKENMILL_TEST_DEVICE", "", "cpu or cuda", "where tests/gpu runs", unset="a GPU, else skipped", reader="tests"
    ),
    text("TOKENMILL_SCREENSHOTS", "", "a folder", "where tests of the pages put pictures", reader="tests"),
]
READERS = {
    "stage": "Stages",
    "pipeline": "The pipeline",
    "ui": "`make ui`",
    "agent": "Agents",
    "tests": "Tests",
    "itself": "Set by Tokenmill itself, for its own processes",
}
HEAD = """# Settings

```
tokenmill settings            # this table; --json for programs
TOKENMILL_RANKS=4 make pipeline
```

A setting is an environment variable: it says where and how fast something runs. What decides a result is a parameter and stands
in params.yaml. An empty variable counts as not set. `make preflight` refuses a value that is not allowed, and a name that is no
setting.
This page is written by `python -m flows.settings`.
"""


def all_settings() -> list[Setting[Any]]:
    """Every setting, in the order of READERS, and of their files within."""
    found: list[Setting[Any]] = []
    for module in (of_stages, of_the_runner):
        found += [value for value in vars(module).values() if isinstance(value, Setting)]
    found += [value for value in globals().values() if isinstance(value, Setting)]
    found += [*of_the_runner.PASSED_ON, *PASSED_ON, *OF_TESTS]
    return sorted(found, key=lambda setting: list(READERS).index(setting.reader))


def page() -> str:
    """The text of docs/settings.md."""
    lines = [HEAD]
    for reader, title in READERS.items():
        lines += [f"## {title}", "", "| variable | what it says | allowed | not set |", "|---|---|---|---|"]
        lines += [
            f"| `{one.name}` | {one.meaning} | {one.allowed} | {one.unset} |"
            for one in all_settings()
            if one.reader == reader
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Exit code: 0; under --json, which says what holds, 2 where a setting has a value that is not allowed."""
    parser = argparse.ArgumentParser(prog="tokenmill settings", description=__doc__)
    add_json_option(parser)
    if not parser.parse_args().json:
        print(page(), end="")
        return 0
    found, mistakes = [], 0
    for one in all_settings():
        if one.reader == "itself":
            continue
        described = {"name": one.name, "reader": one.reader, "meaning": one.meaning, "allowed": one.allowed}
        try:
            secret = one is PASSWORD and one.is_given()
            found.append(
                {**described, "given": one.is_given(), "value": "***" if secret else one.read(), "error": None}
            )
        except ConfigError as error:
            found.append({**described, "given": True, "value": None, "error": str(error)})
            mistakes += 1
    print_json(found)
    return 2 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
