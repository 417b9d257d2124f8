"""Folders, tar shards, Parquet and arrays become batches with stable ids; what can't be read is quarantined."""

from gdui.images.batches import Batch, Clock, Rejected, batches
from gdui.images.columns import labels_in
from gdui.images.decode import Transform, UnreadableError, decode
from gdui.images.shards import Shard, Source
from gdui.images.sources import open_source

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
    "labels_in",
    "open_source",
]
