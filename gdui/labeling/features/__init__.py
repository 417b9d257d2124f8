"""Feature vectors: encoded shard by shard into a store on disk, and read from there as one virtual array."""

from gdui.labeling.features.encode import Ledger, encode_shards, encode_source
from gdui.labeling.features.matrix import Features, is_whole, load_features
from gdui.labeling.features.store import FeatureStore

__all__ = ["FeatureStore", "Features", "Ledger", "encode_shards", "encode_source", "is_whole", "load_features"]
