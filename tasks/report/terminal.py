"""The report as a table for the terminal."""

from pathlib import Path

from tasks.report.read import read_stages
from tasks.report.words import ABSENT, number, percent, size


def table(root: Path) -> str:
    """One line a model, then one line a stage; plain aligned text. What has not run is `-`."""
    stages = read_stages(root)
    models = [["model", "parameters", "size", "bits/byte", "gzip -9", "accuracy", "95% interval", "tokens/s"]]
    for stage in (s for s in stages if s.model):
        m = stage.metrics
        low, high = m.get("accuracy_low"), m.get("accuracy_high")
        models.append([
            stage.model or "",
            number(m.get("parameters")),
            size(m.get("size_bytes")),
            _bits(m.get("bits_per_byte")) + _range(m.get("bits_per_byte_low"), m.get("bits_per_byte_high")),
            _bits(m.get("gzip_bits_per_byte")),
            percent(m.get("accuracy")),
            ABSENT if low is None or high is None else f"{percent(low)} to {percent(high)}",
            number(stage.timings.get("tokens_per_second")),
        ])  # fmt: skip
    work = [["stage", "seconds", "peak memory", "kept", "dropped", "commonest reason"]]
    for stage in stages:
        seconds = stage.timings.get("seconds")
        given, kept = stage.flow or (None, None)
        reason = next((f"{name} {number(count)}" for name, count in stage.drops.items()), "")
        work.append([
            stage.name,
            ABSENT if seconds is None else f"{seconds:.1f}",
            size(stage.timings.get("peak_memory_bytes")),
            "" if kept is None else number(kept),
            "" if kept is None or given is None else number(given - kept),
            reason,
        ])  # fmt: skip
    return "\n\n".join(_aligned(rows) for rows in (models, work) if len(rows) > 1)


def _bits(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    """The 95% interval in brackets; nothing where there is none."""
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"


def _aligned(rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell: names to the left, figures to the right, a closing text to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = rows[0][-1] == "commonest reason"
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or (text and i == len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
