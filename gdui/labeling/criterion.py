"""How far clusters stand out for each number of them, as a picture: what k="auto" chose, and what it chose from."""

from collections.abc import Mapping
from pathlib import Path

from gdui.runs import atomic_path

__all__ = ["draw"]

LINE, CHOSEN, FAINT = "#0b7a75", "#d1495b", "#e4e7eb"


def draw(criterion: Mapping[int, float], path: Path) -> None:
    """Writes a PNG of the modularity over the number of clusters, the best one marked."""
    from matplotlib.figure import Figure

    tried = sorted(criterion)
    best = max(tried, key=lambda k: (criterion[k], -k))
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(tried, [criterion[k] for k in tried], marker="o", markersize=4, color=LINE)
    axes.axvline(best, color=CHOSEN, linestyle="--", linewidth=1)
    axes.annotate(
        f"k = {best}", (best, criterion[best]), (6, -14), textcoords="offset points", color=CHOSEN, fontweight="bold"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(tried[:: -(-len(tried) // 12)], labels=map(str, tried[:: -(-len(tried) // 12)]))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT)
    axes.set(xlabel="number of clusters (logarithmic)", ylabel="modularity")
    axes.set_title("How far the clusters stand out in the graph of neighbours", loc="left", fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
