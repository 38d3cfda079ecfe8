"""`make claims`: what papers say of methods, held to studies on this machine: claims.yaml ->
benchmarks/results/claims.jsonl, docs/claims.md and a page. What is up to date is not run again."""

import argparse
import shlex
import sys
from dataclasses import asdict
from difflib import get_close_matches
from json import dumps, loads
from pathlib import Path
from typing import Any

from flows.arena.checkout import Checkout
from flows.arena.pages import claims_markdown, claims_page
from flows.arena.run_study import FOLDER, run_study
from flows.arena.runs import Failed
from flows.arena.slots import runs_at_once, threads_of
from flows.arena.study import read_study
from flows.arena.study_plan import Plan, in_lines, plans_of
from flows.arena.unclaimed import unclaimed_methods
from flows.arena.verdicts import Claim, claims_of, row_of, verdict_of
from flows.params.assignments import Split
from lm.files import write_text
from tasks.core.config import ConfigError
from tasks.core.yaml import YAMLError, read_yaml
from tasks.runner.answer import add_json_option, print_json, stdout_to_stderr
from tasks.runner.json_lines import lines_of
from tasks.runner.say import say as tell

CLAIMS, STUDIES = Path("claims.yaml"), Path("studies")
SAYS = ("study", "control", "quantity", "headline")  # of a claim, without which a verdict is one of another claim
ROWS, DOCS, PAGE = Path("benchmarks/results/claims.jsonl"), Path("docs/claims.md"), FOLDER / "claims.html"


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="tokenmill claims", description=__doc__)
    parser.add_argument("--only", nargs="*", action=Split, split=str.split, default=[], help="methods; all when absent")
    parser.add_argument("--at-once", type=int, default=0, help="runs that go on side by side; 0: one a core")
    parser.add_argument("--plan", action="store_true", help="how many runs each study would make here; nothing runs")
    add_json_option(parser)
    return parser.parse_args()


def main() -> int:
    """Exit code: 0 done, 1 a run failed, 2 a mistake in what was asked for, 130 stopped."""
    asked, root = arguments(), Path.cwd()
    try:
        if asked.plan:
            plans = plan_studies(root, asked.only, asked.at_once)
            if asked.json:
                print_json({name: asdict(plan) for name, plan in plans.items()})
            else:
                print(*in_lines(plans), sep="\n")
            return 0
        with stdout_to_stderr(asked.json):
            rows, failed = judge_claims(root, asked.only, asked.at_once)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if asked.json:
        print_json(rows)
    else:
        for row in rows:
            before = " (as it was before: its study is not held)" if row["not_held"] else ""
            print(f"{row['method']:<24} {row['verdict']}{f': {why}' if (why := row['why']) else ''}{before}")
        print(f"page: {root / PAGE}")
    for line in dict.fromkeys(str(error) for error in failed.values()):
        studies = [name for name, error in failed.items() if str(error) == line]
        print(f"not held: {', '.join(studies)}: {line}", file=sys.stderr)
    return max((2 if isinstance(error, ConfigError) else 1 for error in failed.values()), default=0)


def judge_claims(
    root: Path, only: list[str], at_once: int
) -> tuple[list[dict[str, Any]], dict[str, ConfigError | Failed]]:
    """(rows of the claims that were asked for, why a study could not be held by its name). All claims of a study that is held
    have new rows, and those that have none; rows of others are as they were, where they are of what claims.yaml says now.
    `not_held` of a row that is given, "" of most: why its study could not be held this time. Rows, docs and page are written.
    Raises ConfigError, before anything runs, for a file of studies/ that is none."""
    claims = read_claims_file(root)
    asked, others = select_claims(claims, only), without_a_claim(root, claims)
    checkout, failed = Checkout(root, root / FOLDER), dict[str, ConfigError | Failed]()
    rows = {row["method"]: row for row in read_rows(root) if is_of(claims.get(row.get("method", "")), row)}
    rows |= {name: row(name, claim, None) for name, claim in claims.items() if claim.study is None}
    written = len(checkout.outcomes.known)
    try:
        for study in dict.fromkeys(claim.study for claim in asked.values() if claim.study is not None):
            of = {name: claim for name, claim in claims.items() if claim.study == study}
            try:
                result = study_result(root, study, at_once, checkout)
                rows |= {name: row(name, claim, result) for name, claim in of.items()}
            except (ConfigError, Failed) as error:
                failed[study] = error
                tell(f"{study} is not held, the others are: {error}", error=True)
            known_runs = len(checkout.outcomes.known)
            if known_runs != written:  # after hours of runs, not after each of 45 studies that are known: 0.1 s each
                write(root, rows, claims, others)
                written = known_runs
    finally:
        write(root, rows, claims, others)
    said = [rows[name] for name in asked if name in rows]
    return [{**each, "not_held": str(failed.get(each["study"], ""))} for each in said], failed


def is_of(claim: Claim | None, row: dict[str, Any]) -> bool:
    """Whether a row is of what the claim says now; one that was held before the claim was mended has another's verdict."""
    return claim is not None and all(row.get(key) == getattr(claim, key) for key in SAYS)


def without_a_claim(root: Path, claims: dict[str, Claim]) -> dict[str, list[str]]:
    """Methods by room that no claim is of. Raises ConfigError for a file of studies/ that is none."""
    return unclaimed_methods(
        root, claims.values(), [read_study(path) for path in sorted((root / STUDIES).glob("*.yaml"))]
    )


def study_result(root: Path, study: str, at_once: int, checkout: Checkout) -> dict[str, Any]:
    """The result of a study of studies/. Raises ConfigError and Failed."""
    path = STUDIES / f"{study}.yaml"
    command = shlex.join(["tokenmill", "study", "--study", str(path)])
    result, _ = run_study(root, study, read_study(root / path), at_once, command, checkout)
    return result


def select_claims(claims: dict[str, Claim], only: list[str]) -> dict[str, Claim]:
    """The claims that were asked for, all where none was named. Raises ConfigError."""
    for name in only:
        if name not in claims:
            near = get_close_matches(name, claims, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"ONLY: claims.yaml has no {name!r}{meant}")
    return {name: claim for name, claim in claims.items() if not only or name in only}


def plan_studies(root: Path, only: list[str], at_once: int) -> dict[str, Plan]:
    """What the studies of the claims that were asked for would run here. Raises ConfigError."""
    names = dict.fromkeys(
        claim.study for claim in select_claims(read_claims_file(root), only).values() if claim.study is not None
    )
    asked = {name: read_study(root / STUDIES / f"{name}.yaml") for name in names}
    return plans_of(Checkout(root, root / FOLDER), asked, threads_of(runs_at_once(at_once)))


def read_claims_file(root: Path) -> dict[str, Claim]:
    """The claims of claims.yaml. Raises ConfigError."""
    try:
        return claims_of(read_yaml(root / CLAIMS), str(CLAIMS))
    except FileNotFoundError:
        raise ConfigError(f"{CLAIMS}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{CLAIMS}: no file of claims: {getattr(error, 'strerror', None) or 'no text'}") from None
    except YAMLError as error:
        raise ConfigError(f"{CLAIMS}: no YAML: {' '.join(str(error).split())}") from None


def read_rows(root: Path) -> list[dict[str, Any]]:
    """The rows that there are. Raises ConfigError for a line that is none."""
    path, found = root / ROWS, list[dict[str, Any]]()
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8")) if path.exists() else (), 1):
        try:
            found += [dict(loads(line))] if line.strip() else []
        except (ValueError, TypeError):
            raise ConfigError(f"{ROWS}:{number}: no row: take the line away, and its study is held again") from None
    return found


def row(name: str, claim: Claim, result: dict[str, Any] | None) -> dict[str, Any]:
    """What is said of a claim, with the date, commit and machine of its study's runs."""
    verdict, why = verdict_of(name, claim, result)
    said: dict[str, Any] = {
        "method": name, "room": claim.room, "paper": claim.paper, "source": claim.source, "headline": claim.headline,
        "study": claim.study, "control": claim.control, "quantity": claim.quantity, "verdict": verdict, "why": why,
        "ratio": None, "t": None, "bootstrap": None,
    }  # fmt: skip
    if result is None:
        return said
    found = row_of(name, claim, result)
    arm = next(each for each in result["arms"] if each["name"] == name)
    base = next(each for each in result["arms"] if each["name"] == result["baseline"])
    runs = [run for each in (arm, base) for run in [*each["trials"], *each["runs"]]]
    control = [each for each in result["arms"] if each["name"] == claim.control]
    on = [*runs, *(run for each in control for run in [*each["trials"], *each["runs"]])]
    return {
        **said,
        **{key: found[key] for key in ("ratio", "t", "bootstrap")},
        **{key: result[key] for key in ("parameters", "tokens", "commit", "machine", "date")},
        "runs_of": sorted({run["study"] for run in on} - {claim.study, ""}),  # runs that it has in common with them
        "seeds": found["pairs"],
        "seconds": sum(run["seconds"] for run in runs),
        "flop": sum(run["flop"] for run in runs),
    }


def write(root: Path, found: dict[str, dict[str, Any]], claims: dict[str, Claim], others: dict[str, list[str]]) -> None:
    """Rows, docs and page, each whole. found: rows by method. others: methods by room that no claim is of."""
    rows, unmeasured = [found[name] for name in claims if name in found], dict[str, list[str]]()
    for name, claim in claims.items():
        if name not in found and claim.study is not None:
            unmeasured.setdefault(claim.study, []).append(name)
    text = "".join(dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    studies = sorted({row["study"] for row in rows if row["study"]})
    sources = {study: f"../{path}" for study in studies if (root / (path := STUDIES / f"{study}.yaml")).exists()}
    pages = {study: page for study in studies if (root / FOLDER / (page := f"{study}/index.html")).exists()}
    write_text(root / ROWS, text)
    write_text(root / DOCS, claims_markdown.markdown(text, sources, others, unmeasured))
    write_text(root / PAGE, claims_page.page(text, pages, others, unmeasured))


if __name__ == "__main__":
    sys.exit(main())
