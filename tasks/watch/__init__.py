"""Watching a training: its metrics and where they go, its bar, its curves."""
