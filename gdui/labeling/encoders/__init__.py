"""Image and text encoders behind one face: open_clip, a torchvision backbone, a checkpoint, or any callable."""

from gdui.labeling.encoders.encoder import Encoder
from gdui.labeling.encoders.load import clip_encoder, load_encoder

__all__ = ["Encoder", "clip_encoder", "load_encoder"]
