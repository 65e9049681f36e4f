"""Attacks on a network whose labels are all one can see: through another one that imitates it.

Where a service gives labels and nothing else, an attacker has images of the same kind labelled by
it, trains a network of their own on these labels, the *surrogate*, and attacks that (Papernot et
al. 2017). What fools the surrogate often fools the target.
"""

from dataclasses import replace

import torch

from lib.attacks import predict
from lib.augmentation import Identity
from lib.training import train


def relabelled(dataset, target):
    """The data set with the labels that `target` gives its images, train and test."""

    def label(images):
        device = next(target.parameters()).device
        return predict(target, images.to(device).float() / 255).to(images.device)

    return replace(
        dataset,
        train_labels=label(dataset.train_images),
        test_labels=label(dataset.test_images),
    )


def train_surrogate(surrogate, target, dataset, *, augmentation=None, **recipe):
    """Train `surrogate` in place on the labels that `target` gives; the share on which they agree.

    `dataset`'s own labels are not read. The recipe is `lib.training.train`'s; the agreement is
    that on the test images.
    """
    labelled = relabelled(dataset, target)
    train(surrogate, labelled, augmentation or Identity(), **recipe)
    device = next(surrogate.parameters()).device
    said = predict(surrogate, labelled.test_images.to(device).float() / 255).cpu()
    return (said == labelled.test_labels.cpu()).float().mean().item()


class Together(torch.nn.Module):
    """Several networks as one, with the mean of their logits: what fools all fools others."""

    def __init__(self, networks):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, x):
        return torch.stack([network(x) for network in self.networks]).mean(0)


def transferred(surrogate, attack):
    """`attack` on the surrogate, as an attack `(model, x, y) -> x_adv` on whatever model is given.

    It aims away from the label `y`, which an attacker without labels asks the target for.
    """

    def through(model, x, y):
        return attack(surrogate, x, y)

    return through


def random_signs(eps, generator):
    """An attack that moves every pixel by `eps` up or down by chance: what eps alone does."""

    def attack(model, x, y):
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device) * 2.0 - 1
        return (x + eps * signs).clamp(0, 1)

    return attack
