"""What the captions said that the shipped encoder `digits` was trained on, by tools/train_digits.py."""

import re

__all__ = ["NUMBERS", "TEMPLATES", "WORDS"]

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "{}",
    "the digit {}",
    "the number {}",
    "the numeral {}.",
    "a {}",
    "a printed {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of the number {}",
    "a photo of the digit {}",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    'a photo of the number: "{}".',
)
WORDS = frozenset(re.findall(r"[\w-]+", " ".join([*NUMBERS, *(template.format("") for template in TEMPLATES)])))
