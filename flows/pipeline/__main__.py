"""`python -m flows.pipeline`: the command (command.py), as quick as Python can be about it where nothing is to do."""

import gc
import os
import sys


def main() -> int:
    """Exit code of the command."""
    gc.disable()  # for imports, which make objects that stay: 0.06 s; begin.load_flow turns it on again
    from flows.pipeline.command import main as command

    return command()


def leave(code: int) -> None:
    """End this process: at once where no run was begun, since Python takes 0.05 s to undo its imports and nothing else is to
    be undone."""
    if "flows.pipeline.begin" in sys.modules:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
