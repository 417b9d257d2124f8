"""How faithful images are: FID, sFID, IS, precision, recall, KID, and the Frechet distance on any features."""

from gdui.evaluation.comparing import comparable
from gdui.evaluation.fidelity.frechet import frechet_distance
from gdui.evaluation.fidelity.inception import inception_score
from gdui.evaluation.fidelity.kernel import kernel_distance
from gdui.evaluation.fidelity.neighbours import precision_recall
from gdui.evaluation.fidelity.networks import Network, load_network
from gdui.evaluation.fidelity.scores import COLUMNS, Fidelity, evaluate, fidelity

__all__ = [
    "COLUMNS",
    "Fidelity",
    "Network",
    "comparable",
    "evaluate",
    "fidelity",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_network",
    "precision_recall",
]
