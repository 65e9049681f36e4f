"""Generated images in place of the examples."""

import torch
import torch.nn.functional as F

from lib import runtime
from lib.augmentation.algebra import Augmentation, Sample


class Generative(Augmentation):
    """Each example gives way to an image generated for its label.

    `network`, a module called as `network(labels, generator=rng)`, gives images in [0, 1] and says
    for which `.shape` and how many `.classes` it was trained; it follows the sample to its device.
    Of a soft label the class is drawn, and is the label of the image: the expected label stays
    what it was. The network runs in its `.precision`, fp32 where it names none.
    """

    def __init__(self, network):
        self.network = network

    def draw(self, sample, generator):
        x, y = sample.x, sample.y
        shape, classes = tuple(x.shape[1:]), y.shape[1]
        if (shape, classes) != (self.network.shape, self.network.classes):
            raise ValueError(
                f"the generator is of {self.network.classes} classes of images "
                f"{list(self.network.shape)}, the sample of {classes} classes of {list(shape)}"
            )
        labels = torch.multinomial(y, 1, generator=generator)[:, 0]
        self.network.to(x.device)
        precision = getattr(self.network, "precision", "fp32")
        with torch.no_grad(), runtime.mixed(x, precision):
            images = self.network(labels, generator=generator)
        return Sample(images.to(x.dtype), F.one_hot(labels, classes).to(y.dtype))

    def __repr__(self):
        # Of the weights, because a checkpoint knows by this text what it was trained with.
        return f"Generative({self.network.digest()})"
