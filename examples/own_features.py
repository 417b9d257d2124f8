"""Labels images by features and an opinion of one's own: here PCA of the pixels, and an opinion that is often wrong."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import gdui

pixels, truth = load_digits(return_X_y=True)
features = PCA(30).fit_transform(pixels)

random = np.random.default_rng(0)
guess = np.where(random.random(len(truth)) < 0.6, truth, random.integers(0, 10, len(truth)))
opinions = np.eye(10)[guess] + random.random((len(truth), 10))

labels = gdui.Labeler([f"digit {name}" for name in range(10)]).fit_predict(features=features, opinions=opinions)
print(f"the opinion was right for {(guess == truth).mean():.0%} of the images")
print(f"the labels are right for {(labels.label_index == truth).mean():.0%}")
