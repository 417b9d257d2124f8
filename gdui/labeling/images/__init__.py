"""Folders, tar shards, Parquet and arrays become batches with stable ids; what can't be read is quarantined."""

from gdui.labeling.images.batches import Batch, Clock, Rejected, batches
from gdui.labeling.images.decode import Transform, UnreadableError, decode
from gdui.labeling.images.shards import Shard, Source
from gdui.labeling.images.sources import open_source

__all__ = [
    "Batch",
    "Clock",
    "Rejected",
    "Shard",
    "Source",
    "Transform",
    "UnreadableError",
    "batches",
    "decode",
    "open_source",
]
