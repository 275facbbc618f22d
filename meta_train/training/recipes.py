"""Whole recipes by name: all that a published result was trained with, so that only the optimizer differs.

Both are DeiT's for ViT-S/16 and ViT-B/16 on ImageNet-1k, 300 epochs at 224 pixels, without distillation, for
which Touvron et al. report 79.8 % and 81.8 % top-1. Values are those of table 9 of the paper and the defaults
of its code (``main.py`` of facebookresearch/deit): batches of 1024, a peak learning rate of 5e-4 per 512
images, 5 epochs of warm-up from 1e-6, a cosine to 1e-5, weight decay 0.05, drop path 0.1, label smoothing
0.1, mixup 0.8 and cutmix 1.0 in equal parts on whole batches, RandAugment of magnitude 9, random erasing in a
quarter of the images, three copies of an image in a batch, bicubic resizing, a moving average of the weights
with decay 0.99996, no dropout and no clipping. Two things differ: the learning rate follows steps rather than
epochs, and what is computed in lower precision is in bf16.

References:
    Touvron et al., 2021, Training data-efficient image transformers & distillation through attention,
    https://arxiv.org/abs/2012.12877
"""

from dataclasses import dataclass, field

from meta_train.training.config import AugmentationConfig, FitConfig

WARMUP_EPOCHS, EPOCHS = 5, 300


@dataclass(frozen=True)
class Recipe:
    """All of a training run but its data, its optimizer and its machine.

    Attributes:
        model: Timm's name.
        lr: Peak learning rate.
        weight_decay: Of all but biases, norms, position and class tokens.
        drop_path: Probability of leaving out a block, at the last; it grows from 0 at the first.
        augmentation: Of the images.
        fit: Of the training.
    """

    model: str
    lr: float = 1e-3
    weight_decay: float = 0.05
    drop_path: float = 0.1
    augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            repeats=3,
            random_erasing=0.25,
            erasing_fill="pixel",
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=EPOCHS,
            batch_size=1024,
            warmup=WARMUP_EPOCHS / EPOCHS,
            warmup_lr=1e-6,
            min_lr=1e-5,
            schedule="cosine",
            amp="bf16",
            ema=0.99996,
        )
    )


RECIPES: dict[str, Recipe] = {
    "vit-s16-300": Recipe("vit_small_patch16_224"),
    "vit-b16-300": Recipe("vit_base_patch16_224"),
}
