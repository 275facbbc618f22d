"""Runs: alone or many together, in processes, kept on disk."""
