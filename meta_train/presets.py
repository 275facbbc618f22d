"""Meta-training runs by name."""

from meta_train.config import MetaTrainConfig

ALL_FAMILIES = (
    "digits-mlp-32",
    "digits-mlp-tanh",
    "teacher",
    "quadratic",
    "quadratic-noisy",
    "rastrigin-lois",
)
FOLDER_FAMILIES = ("folder-vit-32", "folder-vit-64", "folder-vit-128", "folder-vit-224")

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
    "imagenet-vit": MetaTrainConfig(
        families=FOLDER_FAMILIES,
        outer_steps=5_000,
        pairs=2,
        horizon=(60, 1000),
        validation_every=250,
        checkpoint_seconds=600.0,
    ),
}
