"""The artefact in the middle: a label for every image, with the reason for it."""

from gdui.labels.facts import ClusterFacts, Facts
from gdui.labels.table import RULES, Labels
from gdui.labels.totals import Totals, no_quarantine

__all__ = ["RULES", "ClusterFacts", "Facts", "Labels", "Totals", "no_quarantine"]
