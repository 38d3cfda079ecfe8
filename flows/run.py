"""`make pipeline`: composes and checks the parameters, and runs what is stale; with nothing stale it starts nothing."""

import argparse
import gc
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from flows.assignments import take_words
from flows.cache import lacks_objects, put_back
from flows.environment import environment
from flows.heal import heal_lock
from flows.in_use import await_free
from flows.one_run import one_run
from flows.params import CURRENT, check, check_targets, compose, write
from flows.password import for_temporary_server
from flows.plan import make_plan, may_run
from flows.preflight.start import preflight
from tasks.core.config import ConfigError, read_params
from tasks.core.process import no_collection


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make pipeline", description=__doc__)
    take_words(parser)
    parser.add_argument("--force", action="store_true", help="run the stages even when nothing has changed")
    return parser.parse_args()


def server_answers(url: str) -> bool:
    """Whether a Prefect server answers at this API URL within two seconds."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def choose_server() -> None:
    """Leave PREFECT_API_URL when its server answers, else take it away, so that Prefect starts a temporary one."""
    url = os.environ.get("PREFECT_API_URL")
    if url and not server_answers(url):
        print(f"warning: no Prefect server answers at PREFECT_API_URL={url}; using a temporary one", file=sys.stderr)
        del os.environ["PREFECT_API_URL"]
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.update(for_temporary_server())


def main() -> int:
    """Exit code: 0 done, 1 a stage failed, 2 a mistake in what was asked for."""
    asked, root = arguments(), Path.cwd()
    os.environ.update(environment(root))
    os.environ["TOKENMILL_ROOT"] = str(root)
    with one_run(root):
        code = run(root, asked)
    gc.freeze()  # else Python walks all of Prefect and mlflow before it ends, which takes it 1.6 s
    return code


def run(root: Path, asked: argparse.Namespace) -> int:
    """The exit code, as of main."""
    try:
        params = compose(root, asked.preset, asked.set)
        check_targets(root, asked.targets)
        if not (root / "params.yaml").exists() or params != read_params(root / "params.yaml"):
            check(root, params)
            for line in write(root, params):
                print(line, flush=True)
        if healed := heal_lock(root):
            print(healed, file=sys.stderr)
        await_free(root, lambda line: print(line, flush=True))
        plan = make_plan(root, asked.targets)
        if mended := put_back(root, lacks_objects(plan)):
            print(mended, flush=True)
            plan = make_plan(root, asked.targets)
        todo = plan if asked.force else may_run(plan)
        if not todo:
            print(
                f"nothing to do: all {len(plan)} stages are up to date (report: {root / 'data' / 'report' / 'index.html'})"
            )
            return 0
        check(root, params)
        choose_server()
        preflight(root, params, todo)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for stage in todo:
        print(f"{stage.address:>18} | {stage.reason or 'follows what comes before it'}", flush=True)
    with no_collection():  # Prefect takes seconds to import, and nothing of it is needed above
        from flows.pipeline import pipeline

    try:
        ran = pipeline(preset=CURRENT, targets=asked.targets, force=asked.force)
    except (RuntimeError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the rest continues next time", file=sys.stderr)
        return 130
    print(f"ran: {', '.join(ran) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
