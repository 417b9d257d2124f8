"""Uses two stages alone: a stable marriage of clusters and classes, and the repair of doubtful labels."""

import numpy as np

from gdui.labeling.match import stable_match
from gdui.labeling.refine import refine, sweep

votes = np.array([[0.9, 0.8, 0.0], [0.7, 0.1, 0.2], [0.6, 0.3, 0.1]])  # of each cluster's surest images for each class
match = stable_match(votes)
print("cluster -> class", match.class_of_cluster, "margins", np.round(match.margin, 2))

random = np.random.default_rng(0)
cluster, sure, opinion = random.integers(0, 3, 500), random.random(500), random.integers(0, 3, 500)
repaired = refine(cluster, sure, opinion, match.class_of_cluster, sigma=0.5)
print("relabelled at sigma 0.5:", int((repaired.rule != 0).sum()), "of 500")

curve = sweep(cluster, sure, opinion, match.class_of_cluster)
print("relabelled at 0, 0.25, 0.5, 0.75, 1:", curve.changed[::25])
