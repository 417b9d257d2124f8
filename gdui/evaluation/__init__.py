"""Scores: how well labels agree, how faithful images are."""
