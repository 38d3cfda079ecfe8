"""`tokenmill COMMAND`: a command of the checkout that one stands in, whichever of its worktrees that is.

Of the standard library alone, and one file: it is what an installation puts on the path, and a checkout brings the rest.
"""

import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """module: what `python -m` runs. about: a line. json: whether it takes --json."""

    module: str
    about: str
    json: bool = False


COMMANDS = {
    "pipeline": Command("flows.pipeline", "bring the pipeline up to date: --preset smoke --set rl.steps=50", True),
    "plan": Command("flows.forecast", "memory, time and FLOP of a pipeline before it runs: --machine h100", True),
    "preset": Command("flows.cli.preset", "write a preset whose numbers follow from a depth: --depth 12", True),
    "preflight": Command("flows.preflight", "what a run would fail on, found before it starts", True),
    "rates": Command("flows.cli.rates", "which learning rates a stage can have, and its sharpness: pretrain", True),
    "methods": Command("flows.cli.methods", "what can stand in each place of params.yaml: pretrain.optimizer", True),
    "show": Command("flows.cli.show", "figures of the models and stages that are up to date", True),
    "why": Command("flows.staleness.why", "why a stage is up to date or not, and which run made it: pretrain", True),
    "trace": Command("tasks.ledger", "what a step saw, what became of a document: --step 100, --document ID", True),
    "browse": Command("tasks.report.browse", "what a data stage dropped, and why, beside what it kept: filter", True),
    "variant": Command(
        "flows.workspaces.variants", "other parameters in a worktree of their own: --name wide --set ...", True
    ),
    "study": Command(
        "flows.arena",
        "race methods of a room beside a tuned baseline: --room pretrain.optimizer --methods 'adamw muon'",
        True,
    ),
    "claims": Command(
        "flows.arena.claims", "hold what papers say of methods to studies on this machine: --only muon", True
    ),
    "reproduce": Command("flows.replay.reproduce", "run a committed lock again and say what is the same: HEAD", True),
    "bisect": Command("flows.replay.bisect", "where and why two finished runs differ: ../other .", True),
    "audit": Command("tasks.audit", "fail a stage that touches what is outside its key: filter", True),
    "repro": Command("flows.cli.repro", "the pipeline by `dvc repro` alone: no server"),
    "smoke": Command("flows.workspaces.smoke", "the whole pipeline, small, in a copy of its own"),
    "ui": Command("flows.ui", "Prefect, MLflow and the report, and the form that starts the pipeline"),
    "agent": Command("flows.agents", "serve a pool's stages with this machine: gpu"),
    "chat": Command("lm.chat", "talk to a model: data/rl"),
    "serve": Command("flows.serve", "a model behind OpenAI's API on this machine: data/rl --port 8000"),
    "export": Command("flows.cli.export", "a model in Hugging Face's format, or GGUF: data/rl exported", True),
    "card": Command(
        "flows.card", "the model card of an exported model, and whether it is true: exported --model quantize", True
    ),
    "merge": Command(
        "flows.cli.merge", "a model with an adapter of peft in its weights: data/pretrain adapter merged", True
    ),
    "settings": Command("flows.settings", "the environment variables there are; with --json also what holds", True),
}


def main() -> int:
    """Exit code: that of the command, which takes the place of this process; 2 for a mistake in what was asked for."""
    words = sys.argv[1:]
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    name, *rest = words
    here = Path.cwd()
    if mistake := refusal(name, here):
        print(f"tokenmill: {mistake}", file=sys.stderr)
        return 2
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", COMMANDS[name].module, *rest], surroundings(here))


def refusal(name: str, here: Path) -> str:
    """Why a command cannot run in this folder, "" where it can."""
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
        return f"no command {name!r}{f'; did you mean {near[0]!r}?' if near else ''} (`tokenmill` lists them)"
    root = next((folder for folder in (here, *here.parents) if (folder / "flows" / "cli").is_dir()), None)
    if root not in (here, None):
        return f"go to {root}, in which this folder is: a command works on the folder that it starts in"
    return "" if root or (here / "dvc.yaml").exists() else f"{here} is no checkout of Tokenmill"


def usage() -> str:
    """What there is, a line each."""
    lines = [f"  {name:<10} {command.about}{' [--json]' if command.json else ''}" for name, command in COMMANDS.items()]
    return "\n".join(["tokenmill COMMAND ..., each with --help:", *lines])


def surroundings(root: Path) -> dict[str, str]:
    """The environment of a command: the Python that runs us first, and what DVC writes within the project."""
    found = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / ".scratch" / "dvc")}
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found.setdefault("GOMP_SPINCOUNT", "1000")  # flows/environment.py says why
    found.setdefault("USER", str(os.getuid()))  # a container's user may have no name, and DVC asks for one
    if not (root / ".git").exists():
        found["DVC_SYSTEM_CONFIG_DIR"] = str(root / ".dvc" / "without_git")
    return found


if __name__ == "__main__":
    sys.exit(main())
