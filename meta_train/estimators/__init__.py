"""Estimators of the meta-gradient; each sees only perturbations and losses."""
