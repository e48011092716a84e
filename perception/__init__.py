"""Sees: backbones, and one file per task. Gets tensors and label names, never paths. Imports nothing of ours."""
