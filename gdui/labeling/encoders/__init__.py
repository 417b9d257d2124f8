"""Image and text encoders behind one face: open_clip, a torchvision backbone, a checkpoint, or any callable."""

from gdui.labeling.encoders.encoder import Encoder
from gdui.labeling.encoders.lazy import LazyEncoder
from gdui.labeling.encoders.load import clip_encoder, load_encoder, seen_by

__all__ = ["Encoder", "LazyEncoder", "clip_encoder", "load_encoder", "seen_by"]
