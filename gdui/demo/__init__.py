"""The embedded default: its encoder weights and its configuration."""
