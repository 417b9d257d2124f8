"""Draws docs/figures/method.svg: what happens to an image on its way to a label. It reads on light and dark pages.

It is as wide as a README's column, so that no text is scaled down there.
"""

from pathlib import Path
from xml.sax.saxutils import escape

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures" / "method.svg"
WIDE, HIGH, GAP, EDGE, DOWN = 149, 80, 22, 4, 122
COLUMNS, ROWS = 5, 3
ASIDE = 34  # from a box's middle, where two arrows share its edge

STYLE = """
  text { font: 13.5px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #5d6570; text-anchor: middle }
  .name { font-size: 16px; font-weight: 650; fill: #1c1f24 }
  .key { text-anchor: start; fill: #6e7781 }
  .box { fill: #ffffff; stroke: #d5d1c6 }
  .given { fill: #f2f0ea; stroke: #d5d1c6 }
  .end { fill: #0b6f6a; stroke: #0b6f6a }
  .end + .name { fill: #ffffff }
  .end ~ .note { fill: #d8efed }
  path { fill: none; stroke: #8b929c; stroke-width: 1.6 }
  .opinion { stroke: #c27a1c; stroke-dasharray: 4 3 }
  marker path { fill: #8b929c; stroke: none }
  marker.opinion path { fill: #c27a1c }
  @media (prefers-color-scheme: dark) {
    text { fill: #9aa1ac }
    .key { fill: #8b949e }
    .name { fill: #ece9e2 }
    .box { fill: #1c1f25; stroke: #3a404a }
    .given { fill: #262a32; stroke: #3a404a }
    .end { fill: #5cc4bd; stroke: #5cc4bd }
    .end + .name { fill: #0d1a1a }
    .end ~ .note { fill: #14403d }
  }
"""

# (column, row): name, two lines of note, kind; the way goes right, down, and back to the left
STAGES = {
    (0, 0): ("images", "a folder, shards,", "Parquet, arrays", "given"),
    (1, 0): ("features", "a vector each,", "similar ones near", "box"),
    (2, 0): ("clusters", "k-means in the", "graph's slow modes", "box"),
    (3, 0): ("names", "the surest vote,", "a stable marriage", "box"),
    (4, 0): ("repair", "unsure clusters", "ask the opinion", "box"),
    (4, 2): ("graph", "votes spread over", "near neighbours", "box"),
    (3, 2): ("linear model", "learns, smooths,", "labels new images", "box"),
    (2, 2): ("labels", "each with", "its reason", "end"),
    (1, 2): ("generator", "draws new images", "of any class", "box"),
    (0, 1): ("class names", "in several", "sentences", "given"),
    (1, 1): ("opinion", "a score for each", "image and class", "box"),
}


def left(column: int) -> float:
    return EDGE + column * (WIDE + GAP)


def middle(column: int) -> float:
    return left(column) + WIDE / 2


def top(row: int) -> float:
    return EDGE + row * DOWN


def box(column: int, row: int) -> str:
    """A stage as a group: its frame, its name, and what it does."""
    name, first, second, kind = STAGES[column, row]
    lines = [
        f'<rect class="{kind}" x="{left(column):g}" y="{top(row):g}" width="{WIDE}" height="{HIGH}" rx="10"/>',
        f'<text class="name" x="{middle(column):g}" y="{top(row) + 27:g}">{escape(name)}</text>',
        f'<text class="note" x="{middle(column):g}" y="{top(row) + 48:g}">{escape(first)}</text>',
        f'<text class="note" x="{middle(column):g}" y="{top(row) + 66:g}">{escape(second)}</text>',
    ]
    return f"<g>{''.join(lines)}</g>"


def arrow(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def onward(column: int, row: int) -> str:
    """To the box on the right."""
    return arrow(f"M{left(column) + WIDE + 2:g} {top(row) + HIGH / 2:g} h{GAP - 4}")


def back(column: int, row: int) -> str:
    """To the box on the left."""
    return arrow(f"M{left(column) - 2:g} {top(row) + HIGH / 2:g} h{4 - GAP}")


def down(column: int, row: int, to: int, aside: float = 0) -> str:
    """To a box below."""
    return arrow(f"M{middle(column) + aside:g} {top(row) + HIGH + 2:g} V{top(to) - 3:g}")


def heard(column: int, aside: float = 0) -> str:
    """From the opinion up and down to the boxes of a column, which ask it."""
    start, level, at = left(1) + WIDE + 2, top(1) + HIGH / 2, middle(column) + aside
    ends = (top(0) + HIGH + 3, top(2) - 3)
    return "".join(
        f'<path class="opinion" d="M{start:g} {level:g} H{at:g} V{end:g}" marker-end="url(#heard)"/>' for end in ends
    )


def key() -> str:
    """What the dashed arrows mean."""
    x, y = left(2) + 6, top(1) + HIGH / 2 - 10
    return f'<text class="key" x="{x:g}" y="{y:g}">is asked at these stages</text>'


def drawing() -> str:
    """The whole picture."""
    width, height = COLUMNS * (WIDE + GAP) - GAP + 2 * EDGE, (ROWS - 1) * DOWN + HIGH + 2 * EDGE
    tip = (
        '<marker id="{}" class="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' role="img" aria-label="Images become features, clusters, names, and after repair, graph and linear model'
        ' labels, from which a generator learns">',
        f"<style>{STYLE}</style>",
        *(f'{tip.format(*one)}<path d="M0 0 L8 4 L0 8 z"/></marker>' for one in (("tip", ""), ("heard", "opinion"))),
        *(box(*at) for at in STAGES),
        *(onward(column, 0) for column in range(COLUMNS - 1)),
        onward(0, 1),
        down(1, 0, 1),
        down(4, 0, 2, ASIDE),
        *(back(column, 2) for column in (4, 3, 2)),
        heard(3),
        heard(4, -ASIDE),
        key(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(drawing())
