"""Meta-training runs by name."""

from dataclasses import replace

from learned_opt.architecture import LEAN, SHAPED, RuleConfig
from learned_opt.memory import FLTConfig
from meta_train.config import MetaTrainConfig

ALL_FAMILIES = (
    "digits-mlp-32",
    "digits-mlp-tanh",
    "teacher",
    "quadratic",
    "quadratic-noisy",
    "rastrigin-lois",
)
RASTRIGIN_FAMILIES = (
    "rastrigin-open-l2o-4",
    "rastrigin-open-l2o-16",
    "rastrigin-open-l2o-60",
    "rastrigin-lois-4",
    "rastrigin-lois-60",
    "rastrigin-standard-16",
)
BROAD_FAMILIES = (
    "digits-mlp-32",
    "digits-mlp-tanh",
    "image_mlp@8",
    "image_mlp@12",
    "image_conv@7",
    "image_conv@8",
    "vit@6",
    "vit@21",
    "autoencoder@15",
    "autoencoder@18",
    "recurrent@6",
    "recurrent@11",
    "language@13",
    "language@22",
    "logistic@11",
    "quadratic-noisy",
)
"""Small networks of every kind, each with at most 7,500 weights."""
FEWER_FAMILIES = {
    "digits-mlp-tanh": 1.0,
    "image_mlp@12": 1.0,
    "image_conv@7": 1.0,
    "vit@21": 1.0,
    "autoencoder@15": 1.0,
    "recurrent@11": 1.0,
    "language@13": 1.0,
    "logistic@11": 1.0,
    "quadratic-noisy": 1.0,
    "rastrigin-open-l2o-16": 2.5,
    "rastrigin-open-l2o-60": 2.5,
}
"""Some of them, and functions, whose parameters are one vector; and how much each counts.

What helps the many networks costs on the few functions, so these count more.
"""
FOUR_FLOATS = FLTConfig(betas=(0.9,), wave_betas=(0.9,), wave_frequencies=(0.25,))
FOLDER_FAMILIES = ("folder-vit-32", "folder-vit-64", "folder-vit-128", "folder-vit-224")

BASE = MetaTrainConfig(
    rule=replace(SHAPED, default_lr=2e-3),
    families=BROAD_FAMILIES,
    outer_steps=3_600,
    pairs=4,
    estimator="nres",
    shaping=True,
    sigma=0.03,
    horizon=(100, 1000),
    learning_rate_range=(0.25, 0.85),
    learning_rate=4e-3,
    validation=("digits-conv", "digits-mlp-norm", "digits-autoencoder", "digits-gru"),
    validation_every=600,
    validation_steps=150,
    keep="last",
)
"""Its meta-validation is too noisy to choose weights by: the last are kept."""

PRESETS: dict[str, MetaTrainConfig] = {
    "tiny": MetaTrainConfig(
        families=("digits-mlp-32", "quadratic-noisy"),
        outer_steps=150,
        compiled=False,
        pairs=4,
        horizon=(40, 400),
        learning_rate=3e-3,
        validation_every=75,
        validation_steps=200,
        checkpoint_seconds=20.0,
    ),
    "small": MetaTrainConfig(families=ALL_FAMILIES, outer_steps=13_000, validation_every=500),
    "base": BASE,
    "base-small": replace(
        BASE,
        rule=replace(LEAN, orthogonal=True, iterations=3, memory=FOUR_FLOATS, default_lr=4e-3),
        families=tuple(FEWER_FAMILIES),
        family_weights=tuple(FEWER_FAMILIES.values()),
        outer_steps=1_200,
        learning_rate=6e-3,
        validation=("digits-conv", "digits-autoencoder", "rastrigin-rotated-10"),
        validation_every=400,
    ),
    "rastrigin": MetaTrainConfig(
        rule=RuleConfig(
            memory=FLTConfig(betas=(0.9, 0.97, 0.99)), scale="none", progress=True, default_lr=0.5
        ),
        families=RASTRIGIN_FAMILIES,
        outer_steps=400,
        pairs=64,
        estimator="full-es",
        shaping=True,
        horizon=(200, 1000),
        learning_rate_range=(0.85, 0.85),
        sigma=0.05,
        learning_rate=2e-2,
        cosine_share=0.0,
        objective="final",
        final_share=0.0,
        compression=1.0,
        validation=("rastrigin-rotated-10",),
        validation_every=400,
    ),
    "imagenet-vit": MetaTrainConfig(
        families=FOLDER_FAMILIES,
        outer_steps=5_000,
        pairs=2,
        horizon=(60, 1000),
        validation_every=250,
        checkpoint_seconds=600.0,
    ),
}
