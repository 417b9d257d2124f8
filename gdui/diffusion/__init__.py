"""Labels to images."""
