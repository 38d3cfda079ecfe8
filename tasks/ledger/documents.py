"""What became of a document, which documents a reason removed, and what licences the tokens have."""

from dataclasses import dataclass, field
from typing import Any

from lm.config import ConfigError
from tasks.ledger.run import Run


@dataclass(frozen=True)
class Fate:
    """stage: the last that had the document; what: what became of it there. seen: step and tokens of each step that saw it.
    instead: the document that stands for it, where it is a duplicate."""

    id: str
    source: str
    stage: str
    what: str
    text: str = ""
    tokens: int = 0
    seen: list[tuple[int, int]] = field(default_factory=list)
    instead: str | None = None


def fate_of(run: Run, name: str) -> Fate:
    """What became of the document with this id, or of the rejected row `source:file:row`. Raises ConfigError for one that
    ingest never saw."""
    kept = run.rows("SELECT number, source, split, length FROM documents WHERE id = ?", name)
    if kept:
        return _kept(run, name, **kept[0])
    for row in run.rows("SELECT stage, source, reason, text FROM dropped WHERE id = ? ORDER BY stage", name):
        kind, _, rest = row["reason"].partition(":")
        instead = rest if kind == "duplicate_of" else _first_of(run, name)
        return Fate(name, row["source"], row["stage"], f"dropped: {row['reason']}", row["text"], instead=instead)
    for row in run.rows("SELECT source, text FROM ingested WHERE id = ?", name):
        return Fate(name, row["source"], "ingest", "kept, and no stage after it has run since", row["text"])
    rejected = "SELECT source, reason, excerpt FROM quarantine WHERE concat_ws(':', source, file, \"row\") = ?"
    for row in run.rows(rejected, name):
        return Fate(name, row["source"], "ingest", f"quarantined: {row['reason']}", row["excerpt"])
    near = run.rows(
        """SELECT id FROM (SELECT id, damerau_levenshtein(id, $1) AS edits FROM documents)
           WHERE edits <= greatest(1, length($1) / 4) ORDER BY edits, id LIMIT 1""",
        name,
    )
    raise ConfigError(f"DOCUMENT={name}: ingest never saw it" + (f"; did you mean {near[0]['id']}?" if near else ""))


def _kept(run: Run, name: str, number: int, source: str, split: str, length: int) -> Fate:
    text = run.texts([number])[number]
    if split != "train":
        contained = ", and not measured: much of it stands in training" if split == "contained" else ""
        return Fate(name, source, "tokenize", f"held out of training{contained}", text, length)
    query = "SELECT step, sum(length)::bigint AS tokens FROM plan WHERE document = ? GROUP BY step ORDER BY step"
    seen = [(row["step"], row["tokens"]) for row in run.rows(query, number)]
    what = "in the plan" if seen else "for training, but the plan has no part of it"
    return Fate(name, source, "curriculum", what, text, length, seen)


def _first_of(run: Run, name: str) -> str | None:
    found = run.rows("SELECT cluster FROM clusters WHERE id = ? AND cluster <> id", name)
    return found[0]["cluster"] if found else None


# Every removed document or row: who removed it, why, of which kind that is.
REMOVED = """
    (SELECT stage, id, source, reason, text, split_part(reason, ':', 1) AS kind FROM dropped
     UNION ALL
     SELECT stage, concat_ws(':', source, file, "row"), source, reason, excerpt, split_part(reason, ':', 1)
     FROM quarantine)
"""


def removed_by(run: Run, reason: str, limit: int = 20) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(stage, source, documents) counted, and the first `limit` documents, that this reason or kind of reason removed.

    Raises ConfigError with the kinds that there are where it removed none.
    """
    where = f"FROM {REMOVED} WHERE reason = $1 OR kind = $1"
    counts = run.rows(f"SELECT stage, source, count(*) AS documents {where} GROUP BY ALL ORDER BY ALL", reason)
    if not counts:
        kinds = run.rows(
            f"SELECT stage, kind, count(*) AS times FROM {REMOVED} GROUP BY ALL ORDER BY times DESC, stage, kind"
        )
        known = ", ".join(f"{row['kind']} ({row['stage']}, {row['times']})" for row in kinds)
        raise ConfigError(f"REMOVED={reason}: removed nothing; what did: {known or 'nothing'}")
    return counts, run.rows(f"SELECT stage, id, source, reason, text {where} ORDER BY stage, id LIMIT {limit}", reason)


def licences(run: Run) -> list[dict[str, Any]]:
    """licence, source, documents and tokens kept for training, tokens in the plan, and the share of the plan; a licence is
    None where the sources' table does not name it."""
    return run.rows(
        """WITH planned AS (SELECT document, sum(length) AS tokens FROM plan GROUP BY document)
           SELECT licence, d.source, count(*) AS documents, sum(d.length)::bigint AS tokens,
                  coalesce(sum(p.tokens), 0)::bigint AS planned,
                  coalesce(sum(p.tokens) / sum(sum(p.tokens)) OVER (), 0) AS share
           FROM documents d LEFT JOIN planned p ON p.document = d.number
           LEFT JOIN (SELECT source, any_value(licence) AS licence FROM sources GROUP BY source) s ON s.source = d.source
           WHERE d.split = 'train' GROUP BY ALL ORDER BY licence NULLS LAST, planned DESC, d.source"""
    )
