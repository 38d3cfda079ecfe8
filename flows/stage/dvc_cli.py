"""DVC's command line, held to what stages read: what DVC would record of a stage is refused where it is not that.

It is quicker, too, 0.28 s in place of 0.47 to find a stage up to date: it lives too briefly to collect garbage. And 0.2 s less
to write what it has found. As `serve` it imports all that once, for many commands (fork_server.py); as `serve-training` it has
torch in place of it, for the stages of its commands (stage_forks.py).
"""

import errno
import gc
import importlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# This process may work on a revision of the project that has another code, or none, of this name.
ROOT = Path(__file__).parents[2]
if not sys.flags.safe_path:
    del sys.path[0]  # this folder
sys.path.insert(0, str(ROOT))
try:
    from flows.stage import stage_forks
    from flows.stage.as_module import be
    from flows.stage.fork_server import SERVE, SERVE_TRAINING, serve
    from flows.staleness.whole_objects import put_objects_whole
    from tasks.core.yaml import read_yaml
    from tasks.runner.asked import targets_of
    from tasks.runner.recorded import claim_of, differences, forget_run, is_true, locked_decisions
finally:
    del sys.path[0]

# What DVC imports only where it is used, in a stage each time.
LATE = (
    "configobj", "dulwich.ignore", "dulwich.index", "dulwich.worktree", "dvc.cachemgr", "dvc.data_cloud", "dvc.daemon",
    "dvc.dirs", "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params",
    "dvc.repo.plots", "dvc.repo.stage", "dvc.rwlock", "dvc.utils.strictyaml", "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status", "fsspec.implementations.memory",
)  # fmt: skip
HELD = "TOKENMILL_HELD"  # as in tasks/runner/guardian.py


def main() -> int:
    """DVC's exit code."""
    gc.disable()
    words, keeper = sys.argv[1:], None
    if words[:1] == [SERVE_TRAINING]:
        start = stage_forks.begin_with_libraries()
        words = serve(int(words[1]), Path("/"), start.threads)
        keeper = stage_forks.Keeper(start)
        if keeper.stage:
            be(keeper.stage[2])
    from dvc.cli import main as dvc

    end_on_a_full_disk()
    put_objects_whole()
    read_the_lock_by_libyaml()
    hold_to_what_was_read()
    if words[:1] == [SERVE]:
        import_what_a_stage_needs()
        words = serve(int(words[1]), ROOT)
    if keeper:
        stage_forks.use(keeper)
    os.environ[HELD] = "1"
    try:
        code = dvc(with_goals(words))
    finally:
        if keeper:
            keeper.end()
    gc.freeze()  # else Python walks everything before it ends
    return code


def import_what_a_stage_needs() -> None:
    """What DVC imports on the way to bring a stage up to date in a repository of git."""
    for name in LATE:
        importlib.import_module(name)
    importlib.import_module("dvc.cli.parser").get_main_parser()


def with_goals(words: list[str]) -> list[str]:
    """The command line; of a `repro` without a target the goals of dvc.yaml, if it names any, are the targets."""
    if "repro" not in words or targets_of(words):
        return words
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    metas = {name: body.get("do", body).get("meta") or {} for name, body in stages.items()}
    return [*words, *(name for name, meta in metas.items() if meta.get("goal"))]


def end_on_a_full_disk() -> None:
    """DVC's own databases raise OSError where SQLite finds no room: else they try again, without a pause, until there is."""
    from dvc_data.hashfile.cache import Cache

    def sql(cache: Cache) -> Callable[..., sqlite3.Cursor]:
        def execute(*statement: Any) -> sqlite3.Cursor:
            try:
                return cache._con.execute(*statement)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                    raise OSError(errno.ENOSPC, f"No space left on device ({error})", cache.directory) from error
                raise

        return execute

    Cache._sql = property(sql)


def read_the_lock_by_libyaml() -> None:
    """DVC reads dvc.lock, to put a stage's entry into it, in 0.03 s in place of 0.22 where it has fifteen: by the parser that
    keeps no comments, of which a lock has none. The other one also changes the last digit of some numbers each time."""
    from dvc.utils.serialize import _yaml

    with_comments = _yaml.parse_yaml_for_update

    def parsed(text: str, path: str) -> Any:
        return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else with_comments(text, path)

    _yaml.parse_yaml_for_update = parsed


def hold_to_what_was_read() -> None:
    """A stage fails, and nothing of it is kept, where DVC found other parameters or files after it than the stage read; and the
    run cache gives back only what was made of the very same command, parameters and files."""
    from dvc.exceptions import DvcException
    from dvc.stage import Stage
    from dvc.stage.cache import StageCache
    from dvc.stage.serialize import to_single_stage_lockfile

    save_outs, load, load_run = Stage.save_outs, StageCache._load, StageCache._load_cache

    def held_outs(stage: Stage, *options: Any, **more: Any) -> None:
        save_outs(stage, *options, **more)
        entry = to_single_stage_lockfile(stage) if stage.cmd else {}
        if not is_true(entry):
            read = what_was_read(Path(stage.repo.root_dir), entry)
            raise DvcException(f"its output was made with {read}; this was edited as it ended: run it again")

    def same_run(cache: StageCache, stage: Stage) -> Any:
        entry = load(cache, stage)
        return entry if entry and locked_decisions(entry) == locked_decisions(to_single_stage_lockfile(stage)) else None

    def true_run(cache: StageCache, key: str, value: str) -> Any:
        entry = load_run(cache, key, value)
        if entry and not is_true(entry):
            forget_run(Path(cache._get_cache_path(key, value)))
            return None
        return entry

    Stage.save_outs, StageCache._load, StageCache._load_cache = held_outs, same_run, true_run


def what_was_read(root: Path, entry: dict[str, Any]) -> str:
    """What a stage read where its entry would record another, in words."""
    try:
        path, _ = claim_of(entry) or ("", "")
        return ", ".join(differences(json.loads((root / path).read_text()), locked_decisions(entry)))
    except (OSError, ValueError, KeyError):
        return "another parameter or file than DVC found"


if __name__ == "__main__":
    sys.exit(main())
