"""Augmentation: random functions from a sample to a sample.

`algebra` has the definition, composition and probability, `transforms` the expert's transforms,
`mixup` and `generative` the other two ways; `adversarial` attacks the network in training; `law`
treats finite augmentations exactly.
"""

from lib.augmentation.adversarial import Adversarial
from lib.augmentation.algebra import (
    Augmentation,
    Composition,
    Identity,
    Sample,
    Sometimes,
    changed,
    drawn_in_batches,
    with_probability,
)
from lib.augmentation.generative import Generative
from lib.augmentation.mixup import Mixup
from lib.augmentation.transforms import Classic, Crop, Flip, Jitter, Rotation, Transform, Zoom

__all__ = [
    "Adversarial", "Augmentation", "Classic", "Composition", "Crop", "Flip", "Generative",
    "Identity", "Jitter", "Mixup", "Rotation", "Sample", "Sometimes", "Transform", "Zoom",
    "changed", "drawn_in_batches", "with_probability",
]  # fmt: skip
