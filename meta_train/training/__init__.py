"""Ordinary training of an image classifier, with any optimizer."""
