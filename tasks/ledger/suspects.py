"""Which documents may have made the loss spike.

A unit is a sequence where pretraining kept the loss of each, else a whole step, within which nothing finer is known.
Letters: S steps, U units.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from lm.config import ConfigError
from tasks.ledger.run import Run

WINDOW = 65  # steps of the running median: shorter than a loss curve bends, longer than a spike lasts
SPIKE = 3.5  # robust z from which a unit counts, as Iglewicz and Hoaglin (1993) advise for outliers
TO_SIGMA = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


def running_median(values_S: np.ndarray, window: int) -> np.ndarray:
    """S medians of the `window` values around each, of fewer at the ends."""
    half = window // 2
    padded = np.pad(values_S.astype(np.float64), half, constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)


def robust_z(losses_U: np.ndarray, step_U: np.ndarray, steps: int) -> np.ndarray:
    """U robust z: how far each loss is above the running median of its steps' medians, in units of the running median
    absolute deviation. A loss that is no number is infinitely far above."""
    losses_U = np.where(np.isfinite(losses_U), losses_U, np.inf).astype(np.float64)
    level = running_median(_medians(losses_U, step_U, steps), WINDOW)
    away_U = losses_U - level[step_U]
    spread = TO_SIGMA * running_median(_medians(np.abs(away_U), step_U, steps), WINDOW)
    return away_U / np.maximum(spread[step_U], 1e-3)


def _medians(values_U: np.ndarray, step_U: np.ndarray, steps: int) -> np.ndarray:
    """The median of each step's values; units are in the order of their steps."""
    edges = np.searchsorted(step_U, np.arange(steps + 1))
    return np.array([np.median(values_U[edges[s] : edges[s + 1]]) for s in range(steps)])


def spikes_of(run: Run) -> tuple[pa.Table, bool]:
    """(step, sequence, z) of the units that spike, and whether units are sequences; -1 is the sequence of a whole step."""
    counts = run.rows("SELECT step, max(sequence) + 1 AS sequences FROM plan GROUP BY step ORDER BY step")
    sequences_S = np.array([row["sequences"] for row in counts])
    step_U, steps = np.repeat(np.arange(len(counts)), sequences_S), len(counts)
    path = run.data / "pretrain" / "sequence_losses.npy"
    if path.exists():
        losses_U = np.load(path)
        if len(losses_U) != len(step_U):
            raise ConfigError(f"{path}: has {len(losses_U)} losses, and the plan {len(step_U)} sequences; train anew")
        sequence_U = np.arange(len(step_U)) - np.repeat(np.cumsum(sequences_S) - sequences_S, sequences_S)
    else:
        losses_U, step_U, sequence_U = step_losses(run, steps), np.arange(steps), np.full(steps, -1)
    z_U = robust_z(losses_U, step_U, steps)
    high = z_U >= SPIKE
    return pa.table({"step": step_U[high], "sequence": sequence_U[high], "z": z_U[high]}), path.exists()


def step_losses(run: Run, steps: int) -> np.ndarray:
    """Losses of S steps, out of data/pretrain/curves.jsonl."""
    path = run.data / "pretrain" / "curves.jsonl"
    if not path.exists():
        raise ConfigError(f"{path}: no such file; has pretrain run?")
    losses = {point["step"]: point["loss"] for point in map(json.loads, path.read_text().splitlines())}
    if sorted(losses) != list(range(steps)):
        raise ConfigError(f"{path}: has losses of {len(losses)} steps, and the plan has {steps}; train anew")
    return np.array([losses[step] for step in range(steps)])


def suspects(run: Run, limit: int = 10) -> tuple[bool, list[dict[str, Any]]]:
    """(whether units are sequences, the documents by how much the units that held them stand out): id, source, score, how many
    of the units that held them spiked, how many there are, and the step of the highest spike.

    score: sum of z over spiking units, each times the share of the unit that is the document's (of a step: in sequences, at
    most 1), over the square root of all its units, as in Stouffer's sum of independent z. So spikes add up, a document
    that is often where nothing spikes is cleared, and a fragment beside a culprit counts little.
    """
    spikes, by_sequence = spikes_of(run)
    run.db.register("spikes", spikes)
    unit = "sequence" if by_sequence else "-1"
    return by_sequence, run.rows(
        f"""WITH size AS (SELECT step, sum(length) / (max(sequence) + 1) AS tokens FROM plan GROUP BY step),
                 held AS (SELECT document, p.step, {unit} AS unit, least(sum(length) / any_value(tokens), 1) AS share
                          FROM plan p JOIN size USING (step) GROUP BY ALL),
                 scored AS (SELECT document, coalesce(sum(share * z), 0) / sqrt(count(*)) AS score, count(z) AS spikes,
                                   count(*) AS units, arg_max(h.step, z) AS step
                            FROM held h LEFT JOIN spikes s ON s.step = h.step AND s.sequence = h.unit
                            GROUP BY document HAVING count(z) > 0)
            SELECT document, id, source, score, spikes, units, step FROM scored JOIN documents d ON d.number = document
            ORDER BY score DESC, document LIMIT {limit}"""
    )
