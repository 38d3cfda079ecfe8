"""`make audit STAGE=filter`: one stage run by its command and audited."""

import argparse
import json
import os
import shlex
import subprocess
import sys

from lm.settings import RUNNER
from tasks.audit.traces import RECORDS
from tasks.runner.answer import add_json_option, print_json
from tasks.runner.graph import read_graph
from tasks.runner.settings import AUDIT, TRACKING


def main() -> int:
    """Run one stage, audited, by its command; its output is put in place as ever. The exit code is the stage's."""
    parser = argparse.ArgumentParser(prog="tokenmill audit", description=__doc__)
    parser.add_argument("stage")
    add_json_option(parser)
    asked, graph = parser.parse_args(), read_graph()
    address = asked.stage
    if address not in graph:
        print(f"STAGE: no stage {address!r} (stages: {', '.join(graph)})", file=sys.stderr)
        return 2
    entry = graph[address]
    command = [sys.executable, *shlex.split(entry.cmd)[1:]]
    surroundings = {**os.environ, AUDIT.name: "1", TRACKING.name: "off"}
    surroundings.pop(RUNNER.name, None)
    found = RECORDS / f"{address}.json"
    found.unlink(missing_ok=True)  # that of an earlier run, which a stage that ends before its audit would leave
    said = sys.stderr if asked.json else None
    code = subprocess.run(command, env=surroundings, stdout=said, check=False).returncode
    if asked.json:
        if found.exists():
            print_json({"code": code, **json.loads(found.read_text())})
    elif not code:
        record = json.loads(found.read_text())
        counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in record["files"].items())
        print(f"{address}: all inside its key: files {counts}; sections {', '.join(record['params'])}")
    return code


if __name__ == "__main__":
    sys.exit(main())
