"""What tests ask of a folder of checkpoints."""

import hashlib
from pathlib import Path


def newest_digest(folder: Path) -> str:
    """A digest of the newest checkpoint's bytes: pytest would take hours to show where megabytes differ."""
    return hashlib.sha256(sorted(folder.glob("step-*.safetensors"))[-1].read_bytes()).hexdigest()
