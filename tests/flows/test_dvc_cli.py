"""What our start of DVC adds to it: a full disk ends it, with a line that says so."""

import subprocess
import sys
from pathlib import Path

from tests.project import ROOT
from tests.small_disk import small_disk

# A database that is opened anew, as DVC's are: what finds no room is the index that SQLite keeps while it is open.
WRITE = """
import sys
from pathlib import Path
from dvc_data.hashfile.cache import Cache
from flows.stage.dvc_cli import end_on_a_full_disk

folder = Path(sys.argv[1])
cache = Cache(folder / "links")
cache["before"] = 1
cache.close()
with (folder / "fill").open("wb", buffering=0) as fill:
    try:
        while True:
            fill.write(bytes(4096))
    except OSError:
        pass
end_on_a_full_disk()
cache["after"] = 2
"""


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    """It would try again for ever."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        command = [sys.executable, "-c", WRITE, str(disk)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode and last.startswith("OSError: [Errno 28] No space left on device") and "links" in last
