"""How far clusters stand out for each number of them, as a picture: what k="auto" chose, and what it chose from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdui.runs import atomic_path

__all__ = ["draw"]


def draw(criterion: Mapping[int, float], path: Path) -> None:
    """Writes a PNG of the modularity over the number of clusters, the best one marked."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gdui.drawing import LIMIT, OURS, PLOT

    tried = sorted(criterion)
    best = max(tried, key=lambda k: (criterion[k], -k))
    with rc_context(PLOT), atomic_path(path) as temporary:
        figure = Figure(figsize=(7.2, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(tried, [criterion[k] for k in tried], marker="o", markersize=4, color=OURS)
        axes.axvline(best, color=LIMIT, linestyle="--", linewidth=1)
        above_axis = axes.get_xaxis_transform()
        text: dict[str, Any] = {"textcoords": "offset points", "color": LIMIT, "fontweight": "bold"}
        axes.annotate(f"k = {best}", (best, 0.03), (6, 0), xycoords=above_axis, **text)
        axes.set_xscale("log", base=2)
        axes.set_xticks(tried[:: -(-len(tried) // 12)], labels=map(str, tried[:: -(-len(tried) // 12)]))
        axes.minorticks_off()
        axes.set(xlabel="number of clusters (logarithmic)", ylabel="modularity")
        axes.set_title("How far the clusters stand out in the graph of neighbours")
        figure.savefig(temporary, format="png", metadata={"Software": None})
