"""Runs pytest on the package that lies in a folder, not on an installed one: `sanitized.py FOLDER [arguments]`."""

import os
import sys

import pytest

os.environ.pop("LD_PRELOAD", None)  # what the tests start shall run without the sanitizer
folder, *arguments = sys.argv[1:]
# An editable installation answers for gdui before the path is searched.
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, folder)

import gdui._core  # noqa: E402

if not gdui._core.__file__.startswith(folder):
    sys.exit(f"the core came from {gdui._core.__file__}, not from {folder}")
sys.exit(pytest.main(arguments))
