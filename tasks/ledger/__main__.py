"""`make trace`: from a step to the documents in it, and from a document to what became of it."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from lm.config import ConfigError
from tasks.ledger.documents import fate_of, licences, removed_by
from tasks.ledger.revision import data_of
from tasks.ledger.run import Run
from tasks.ledger.steps import documents_of, ranges_of, token_at
from tasks.ledger.suspects import suspects
from tasks.runner.answer import add_json_option, print_json
from tasks.runner.columns import aligned

EXCERPT, TOKENS_SHOWN = 100, 40  # characters of a text, and tokens of a document that are decoded for it


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tokenmill trace", description=__doc__)
    parser.add_argument(
        "--run", default="data", help="a data folder, or a git revision whose data DVC has in its cache"
    )
    parser.add_argument("--step", type=int, help="what was in this step")
    parser.add_argument("--sequence", type=int, help="with --step: the documents of one sequence")
    parser.add_argument("--position", type=int, help="with --step and --sequence: one token, and its document")
    parser.add_argument("--document", help="an id, or source:file:row of a row that ingest rejected")
    parser.add_argument("--removed", help="a reason, or its kind (what stands before a colon)")
    parser.add_argument("--licences", action="store_true", help="tokens by licence and source")
    parser.add_argument("--suspects", action="store_true", help="documents whose sequences made the loss spike")
    add_json_option(parser)
    asked = parser.parse_args(given)
    if (asked.position is not None and asked.sequence is None) or (asked.sequence is not None and asked.step is None):
        parser.error("--position needs --sequence, and --sequence needs --step")
    questions = (asked.step is not None, asked.document, asked.removed, asked.licences, asked.suspects)
    if sum(map(bool, questions)) != 1:
        parser.error("ask one thing: STEP=100, DOCUMENT=<id>, REMOVED=<reason>, LICENCES=1 or SUSPECTS=1")
    return asked


def answer(asked: argparse.Namespace, run: Run) -> list[str]:
    """Lines that answer what was asked of a run."""
    if asked.position is not None:
        return of_token(run, asked.step, asked.sequence, asked.position)
    if asked.sequence is not None:
        rows = ranges_of(run, asked.step, asked.sequence)
        columns = ["position", "length", "offset", "id", "source"]
        return [f"sequence {asked.sequence} of step {asked.step}:", *table(rows, columns)]
    if asked.step is not None:
        return of_step(run, asked.step)
    if asked.document:
        return of_document(run, asked.document)
    if asked.removed:
        counts, rows = removed_by(run, asked.removed)
        shown = [row | {"text": excerpt(row["text"])} for row in rows]
        return [*table(counts, ["stage", "source", "documents"]), "", *table(shown, ["id", "reason", "text"])]
    if asked.licences:
        note = ["", "data/ingest/sources.parquet is not there: no licence is known"] if "sources" in run.absent else []
        return [*table(licences(run), ["licence", "source", "documents", "tokens", "planned", "share"]), *note]
    return of_suspects(run)


def json_answer(asked: argparse.Namespace, run: Run) -> Any:
    """Answer for programs: rows as objects, texts whole."""
    if asked.position is not None:
        return token_at(run, asked.step, asked.sequence, asked.position)
    if asked.sequence is not None:
        return ranges_of(run, asked.step, asked.sequence)
    if asked.step is not None:
        return documents_of(run, asked.step)
    if asked.document:
        fate = fate_of(run, asked.document)
        return [fate, *([fate_of(run, fate.instead)] if fate.instead else [])]
    if asked.removed:
        counts, rows = removed_by(run, asked.removed)
        return {"counts": counts, "documents": rows}
    if asked.licences:
        return licences(run)
    by_sequence, rows = suspects(run)
    return {"by": "sequences" if by_sequence else "steps", "documents": rows}


def of_step(run: Run, step: int) -> list[str]:
    rows = documents_of(run, step)
    sources: dict[str, int] = {}
    for row in rows:
        sources[row["source"]] = sources.get(row["source"], 0) + row["tokens"]
        end = min(row["end"], row["start"] + TOKENS_SHOWN)
        row["text"] = excerpt(run.tokenizer.decode(run.tokens[row["start"] : end].tolist()))
    total = sum(sources.values())
    shares = ", ".join(f"{name} {tokens / total:.1%}" for name, tokens in sorted(sources.items(), key=lambda s: -s[1]))
    head = f"step {step}: {total} tokens of {len(rows)} documents; {shares}"
    return [head, *table(rows, ["tokens", "share", "ranges", "id", "source", "text"])]


def of_token(run: Run, step: int, sequence: int, position: int) -> list[str]:
    found = token_at(run, step, sequence, position)
    return [
        f"token {found.token} {found.text!r}: number {found.offset} of the {found.length} of {found.document} ({found.source})",
        f"{one_line(found.before)}[[{one_line(found.text)}]]{one_line(found.after)}",
    ]


def of_document(run: Run, name: str) -> list[str]:
    fate = fate_of(run, name)
    lines = [f"{fate.id} ({fate.source}): {fate.stage}: {fate.what}", excerpt(fate.text)]
    if fate.seen:
        total = sum(tokens for _, tokens in fate.seen)
        lines.append(f"{len(fate.seen)} steps saw {total} tokens of it, which has {fate.tokens}:")
        lines.append(", ".join(f"{step} ({tokens})" for step, tokens in fate.seen))
    if fate.instead:
        lines += ["", "what stands for it:", *of_document(run, fate.instead)]
    return lines


def of_suspects(run: Run) -> list[str]:
    by_sequence, rows = suspects(run)
    unit = (
        "sequences" if by_sequence else "steps; within a step nothing finer is known: the run kept no loss of sequences"
    )
    for row in rows:
        row["text"] = excerpt(run.texts([row["document"]])[row["document"]])
    return [f"by the losses of {unit}", *table(rows, ["score", "spikes", "units", "step", "id", "source", "text"])]


def one_line(text: str) -> str:
    """The text with what a terminal would act on escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def excerpt(text: str) -> str:
    return one_line(text[:EXCERPT]) + ("..." if len(text) > EXCERPT else "")


def table(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    """Aligned columns below their names; numbers to the right."""
    cells = [columns, *([cell(name, row[name]) for name in columns] for row in rows)]
    numbers = {i for i, name in enumerate(columns) if rows and isinstance(rows[0][name], int | float)}
    return aligned(cells, left=set(range(len(columns))) - numbers)


def cell(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2%}" if name == "share" else f"{value:.1f}" if isinstance(value, float) else one_line(str(value))


def main(given: list[str] | None = None) -> int:
    """Exit code: 0 answered, 2 a mistake in what was asked."""
    asked = arguments(given)
    try:
        with tempfile.TemporaryDirectory() as folder:
            there = Path(asked.run)
            data = there if there.is_dir() else data_of(Path(), asked.run, Path(folder))
            if asked.json:
                print_json(json_answer(asked, Run(data)))
            else:
                print("\n".join(answer(asked, Run(data))))
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
