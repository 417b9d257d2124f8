"""Labels scikit-learn's handwritten digits by name, without a label, and compares with the truth afterwards."""

import numpy as np
from sklearn.datasets import load_digits

import gdui

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
digits = load_digits()
pictures = np.rint(digits.images[:600] * 255 / 16).astype(np.uint8)

labeler = gdui.Labeler(NAMES, encoder="digits")
labels = labeler.fit_predict(pictures)
print(labels.summary())
print(labels.why("7"))

truth = {str(row): NAMES[digit] for row, digit in enumerate(digits.target[:600])}
print("the report is in", labels.report("digits.html", images=pictures, truth=truth, title="digits"))
