"""`python -m benchmarks.peers`: the environment of the peers, .venv-peers, apart from ours and pinned by peers*.txt."""

import subprocess
import sys
from pathlib import Path

from benchmarks.subprocess_arm import PEERS


def main() -> None:
    if not PEERS.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS.parents[1])], check=True)
    here = Path(__file__).parent
    for pins, without in (("peers.txt", []), ("peers_alone.txt", ["--no-deps"])):
        command = [str(PEERS), "-m", "pip", "install", "--quiet", *without, "--requirement", str(here / pins)]
        subprocess.run(command, check=True)
    print(f"{PEERS.parents[1].name}: ready")


if __name__ == "__main__":
    main()
