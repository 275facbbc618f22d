"""The outer loop, which makes learned optimizers, and the command line."""
