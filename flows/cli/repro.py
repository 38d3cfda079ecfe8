"""`tokenmill repro`: the pipeline by `dvc repro` alone, with no server, and the same end."""

import argparse
import subprocess
import sys
from pathlib import Path

from flows.params import compose
from flows.pipeline.finish import end
from flows.stage.dvc_forks import DVC_CLI
from flows.staleness.heal import heal_lock
from tasks.core.config import ConfigError


def main() -> int:
    """Exit code: 0 done, 2 a mistake in params.yaml or a lock that cannot be used, else that of DVC."""
    parser = argparse.ArgumentParser(prog="tokenmill repro", description=__doc__)
    parser.add_argument("targets", nargs="*", help="stages; all when absent")
    parser.add_argument("--force", action="store_true", help="run the stages even when nothing has changed")
    asked, root = parser.parse_args(), Path.cwd()
    try:
        if healed := heal_lock(root):
            print(healed, file=sys.stderr)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if code := compose.main():
        return code
    command = [sys.executable, "-P", str(DVC_CLI), "repro", *asked.targets, *(["--force"] if asked.force else [])]
    if code := subprocess.run(command, check=False).returncode:
        return code
    end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
