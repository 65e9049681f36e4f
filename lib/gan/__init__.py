"""GANs, whose generators serve as augmentations.

`networks` has the generators and critics, `training` the game they play, `quality` says how good
the images are.
"""

from lib.gan.quality import frechet_distance
from lib.gan.training import KINDS, train_gan

__all__ = ["KINDS", "frechet_distance", "train_gan"]
