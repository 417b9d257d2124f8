"""Draws docs/figures/method.svg: what happens to an image on its way to a label. It reads on light and dark pages."""

from pathlib import Path
from xml.sax.saxutils import escape

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures" / "method.svg"
WIDE, HIGH, GAP, TOP, DOWN = 140, 74, 26, 12, 132

STYLE = """
  text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #5d6570; text-anchor: middle }
  .name { font-size: 15px; font-weight: 650; fill: #1c1f24 }
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
    .name { fill: #ece9e2 }
    .box { fill: #1c1f25; stroke: #3a404a }
    .given { fill: #262a32; stroke: #3a404a }
    .end { fill: #5cc4bd; stroke: #5cc4bd }
    .end + .name { fill: #0d1a1a }
    .end ~ .note { fill: #14403d }
  }
"""

# name, two lines of note, kind
STAGES = [
    ("images", "a folder, shards,", "Parquet, arrays", "given"),
    ("features", "a vector each,", "similar ones near", "box"),
    ("clusters", "k-means in the", "graph's slow modes", "box"),
    ("names", "the surest vote,", "a stable marriage", "box"),
    ("repair", "unsure clusters", "ask the opinion", "box"),
    ("graph", "votes spread over", "nearest neighbours", "box"),
    ("linear model", "learns, smooths,", "labels new images", "box"),
    ("labels", "each with", "its reason", "end"),
]


def box(at: int, row: int, name: str, first: str, second: str, kind: str) -> str:
    """A stage as a group: its frame, its name, and what it does."""
    left, top = GAP / 2 + at * (WIDE + GAP), TOP + row * DOWN
    middle = left + WIDE / 2
    lines = [
        f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{WIDE}" height="{HIGH}" rx="10"/>',
        f'<text class="name" x="{middle:g}" y="{top + 25:g}">{escape(name)}</text>',
        f'<text class="note" x="{middle:g}" y="{top + 45:g}">{escape(first)}</text>',
        f'<text class="note" x="{middle:g}" y="{top + 61:g}">{escape(second)}</text>',
    ]
    return f"<g>{''.join(lines)}</g>"


def onward(at: int, row: int) -> str:
    """An arrow from a stage to the next."""
    right, middle = GAP / 2 + at * (WIDE + GAP) + WIDE, TOP + row * DOWN + HIGH / 2
    return f'<path d="M{right + 2:g} {middle:g} H{right + GAP - 3:g}" marker-end="url(#tip)"/>'


def down(at: int) -> str:
    """An arrow from a stage to what stands below it."""
    middle = GAP / 2 + at * (WIDE + GAP) + WIDE / 2
    return f'<path d="M{middle:g} {TOP + HIGH + 2} V{TOP + DOWN - 4}" marker-end="url(#tip)"/>'


def opinion(to: int) -> str:
    """An arrow from the opinion to a stage that asks it."""
    start, target = GAP / 2 + 2 * WIDE + GAP + 2, GAP / 2 + to * (WIDE + GAP) + WIDE / 2
    level = TOP + DOWN + HIGH / 2
    return f'<path class="opinion" d="M{start:g} {level:g} H{target:g} V{TOP + HIGH + 5:g}" marker-end="url(#heard)"/>'


def drawing() -> str:
    """The whole picture."""
    width, height = len(STAGES) * (WIDE + GAP), 2 * TOP + DOWN + HIGH
    tip = (
        '<marker id="{}" class="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="'
        'Images become features, clusters, names, and after repair, graph and linear model labels">',
        f"<style>{STYLE}</style>",
        *(f'{tip.format(*one)}<path d="M0 0 L8 4 L0 8 z"/></marker>' for one in (("tip", ""), ("heard", "opinion"))),
        *(box(at, 0, *stage) for at, stage in enumerate(STAGES)),
        *(onward(at, 0) for at in range(len(STAGES) - 1)),
        box(0, 1, "class names", "in several", "sentences", "given"),
        box(1, 1, "opinion", "a score for each", "image and class", "box"),
        onward(0, 1),
        *map(down, (1, 7)),
        box(7, 1, "generator", "draws new images", "of any class", "box"),
        *map(opinion, (3, 4, 5, 6)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(drawing())
