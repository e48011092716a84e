"""Puts together: the commands a person starts, presets, checkpoints, tracking. May import every other room."""
