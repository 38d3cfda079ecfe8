"""`python -m benchmarks.peers`: the environment of the peers, .venv-peers, apart from ours and pinned by peers.txt."""

import subprocess
import sys
from pathlib import Path

from benchmarks.apart import PEERS


def main() -> None:
    if not PEERS.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS.parents[1])], check=True)
    pins = Path(__file__).with_name("peers.txt")
    subprocess.run([str(PEERS), "-m", "pip", "install", "--quiet", "--requirement", str(pins)], check=True)
    print(f"{PEERS.parents[1].name}: ready")


if __name__ == "__main__":
    main()
