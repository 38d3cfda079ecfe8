"""`make preflight`: everything that is known to make the pipeline fail, a line each, before anything is run or written."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flows.environment import environment
from flows.params.assignments import take_words
from flows.params.compose import check, check_targets, compose
from flows.params.outside import reach_inputs
from flows.preflight.repository import check_files, plan_for
from flows.preflight.start import look, surroundings
from flows.staleness.plan import may_run
from tasks.about.finding import Finding, findings_of, of_error
from tasks.core.config import ConfigError
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr


def valid_params(
    root: Path, preset: str, overrides: list[str], targets: list[str]
) -> tuple[dict[str, Any], list[Finding]]:
    """The composed params, and the mistakes in them and in the targets."""
    params: dict[str, Any] = {}
    found: list[Finding] = []
    try:
        params = compose(root, preset, overrides)
        reach_inputs(root, params)
    except ConfigError as error:
        return params, of_error(error)
    try:
        check(root, params)
    except ConfigError as error:
        found = of_error(error)
    try:
        check_targets(root, params, targets)
    except ConfigError as error:
        found += of_error(error)
    return params, found


def look_at_all(root: Path, preset: str, overrides: list[str], targets: list[str]) -> list[Finding]:
    """Every finding; what needs readable files and valid params is left out where they are not."""
    found = findings_of(lambda: check_files(root))
    if any(finding.where == "dvc.yaml" for finding in found):
        return found
    params, mistakes = valid_params(root, preset, overrides, targets)
    found += mistakes
    if found:
        return list(dict.fromkeys(found + surroundings(root, [])))
    try:
        plan = plan_for(root, params, targets)
    except ConfigError as error:
        return of_error(error) + surroundings(root, [])
    return look(root, params, [stage.address for stage in may_run(plan)])


def main() -> int:
    """Exit code: 0 nothing found, 2 something was."""
    parser = argparse.ArgumentParser(prog="tokenmill preflight", description=__doc__)
    take_words(parser)
    add_json_option(parser)
    asked, root = parser.parse_args(), Path.cwd()
    os.environ.update(environment(root))
    with stdout_to_stderr(asked.json):
        found = look_at_all(root, asked.preset, asked.set, asked.targets)
    if asked.json:
        print_json(found)
        return 2 if found else 0
    for finding in found:
        print(finding, file=sys.stderr)
    print(f"preflight: {len(found)} to mend" if found else "preflight: nothing to mend")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
