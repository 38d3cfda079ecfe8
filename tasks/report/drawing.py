"""The graph of the pipeline as SVG text: a row a layer, boxes with their time, arrows downwards."""

from html import escape

BOX_W, BOX_H, GAP_X, GAP_Y, PAD = 158, 40, 22, 22, 4
ARROW = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
)


def layers(needs: dict[str, list[str]]) -> list[list[str]]:
    """Stages by the length of the longest way to them, each layer in the order of `needs`.

    Raises ValueError when the stages need each other in a circle.
    """
    depth: dict[str, int] = {}
    waiting = list(needs)
    while waiting:
        ready = [s for s in waiting if all(n in depth for n in needs[s])]
        if not ready:
            raise ValueError(f"these stages need each other: {', '.join(waiting)}")
        for stage in ready:
            depth[stage] = 1 + max((depth[n] for n in needs[stage]), default=-1)
        waiting = [s for s in waiting if s not in depth]
    return [[s for s in needs if depth[s] == d] for d in range(max(depth.values(), default=-1) + 1)]


def reduced(needs: dict[str, list[str]]) -> dict[str, list[str]]:
    """The edges without those that a longer way implies, so that the drawing stays readable."""
    above: dict[str, set[str]] = {}
    for layer in layers(needs):
        for stage in layer:
            above[stage] = set(needs[stage]).union(*(above[n] for n in needs[stage]))
    return {s: [n for n in ns if not any(n in above[other] for other in ns)] for s, ns in needs.items()}


def graph(needs: dict[str, list[str]], notes: dict[str, str]) -> str:
    """The SVG; a stage with no note is drawn pale, as it has not run. Empty for no stage."""
    rows = layers(needs)
    if not rows:
        return ""
    widest = max(map(len, rows))
    width = widest * (BOX_W + GAP_X) - GAP_X + 2 * PAD
    height = len(rows) * (BOX_H + GAP_Y) - GAP_Y + 2 * PAD
    place = {
        stage: (PAD + across * (BOX_W + GAP_X), PAD + down * (BOX_H + GAP_Y))
        for down, row in enumerate(rows)
        for across, stage in enumerate(row)
    }
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" class="graph" role="img" aria-label="the stages">',
        ARROW,
    ]
    for stage, above in reduced(needs).items():
        x2, y2 = place[stage][0] + BOX_W / 2, place[stage][1]
        for other in above:
            x1, y1 = place[other][0] + BOX_W / 2, place[other][1] + BOX_H
            middle = (y1 + y2) / 2
            curve = f"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}"
            parts.append(f'<path class="edge" marker-end="url(#tip)" d="{curve}"/>')
    for stage, (x, y) in place.items():
        note = notes.get(stage, "")
        state = "box" if note else "box absent"
        middle, line = x + BOX_W / 2, y + (17 if note else 24)
        parts.append(
            f'<g class="{state}"><rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="6"/>'
            f'<text class="name" x="{middle}" y="{line}" text-anchor="middle">{escape(stage)}</text>'
            f'<text class="note" x="{middle}" y="{y + 32}" text-anchor="middle">{escape(note)}</text></g>'
        )
    return "".join([*parts, "</svg>"])
