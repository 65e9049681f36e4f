# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Three against seven: a linear network, trained with and without an adversary
#
# Logistic regression on two digits of MNIST, trained on clean examples or on those of the fast
# gradient sign method, with weight decay or without. What is recorded are its risks at every
# $\varepsilon$: under the attack, from the distances to the boundary, by the formula for pixels
# without bounds, and under random signs.

# %% tags=["parameters"]
profile = "three-seven"  # a file of notebooks/profiles/, or a path to one of your own
eps_train = None  # of the attack in training, Linf; a list; None: all of the grid
weight_decay = None  # the regulariser that is compared with it; a list
seed = None  # of initialisation and data order; a list

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import numpy as np
import torch

from lib import attacks, data, models
from lib.augmentation import Adversarial
from lib.seeds import generator
from lib.study import run_experiment
from lib.training import train


# %%
def point(eps_train, weight_decay, seed, *, labels, epochs, batch_size, learning_rate, radii):
    """Rows of one network: its risks, losses and weights."""
    images = data.only(data.load("mnist"), labels)
    x, y = images.test_images.float() / 255, images.test_labels
    model = models.initialise(models.dense(x.shape[1:], len(labels)), seed)
    train(
        model, images, Adversarial(model, eps_train, 1), epochs=epochs, seed=seed,
        batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
        progress=False,
    )  # fmt: skip
    shared = {"examples": len(y), "data": images.checksum[:12]}
    rows = []

    def risk(attack, eps, value):
        rows.append(dict(measure="risk", attack=attack, eps=eps, value=float(value), **shared))

    at = torch.tensor(radii, dtype=torch.float64)
    reach = {
        "distances": attacks.boundary_distance(model, x, y, norm="linf", steps=20),
        "formula": attacks.linearised_distance(model, x, y),
    }
    for name, distances in reach.items():
        for eps, value in zip(radii, attacks.risk_curve(distances, at).tolist(), strict=True):
            risk(name, eps, value)
    signs = torch.randint(0, 2, x.shape, generator=generator(seed, "signs")) * 2.0 - 1
    for eps in radii:
        x_adv = attacks.fgsm(model, x, y, eps=eps)
        logits = attacks.logits_of(model, x_adv)
        risk("fgsm", eps, attacks.risk(model, x_adv, y))
        risk("random signs", eps, attacks.risk(model, (x + eps * signs).clamp(0, 1), y))
        loss = torch.nn.functional.cross_entropy(logits, y)
        rows.append(dict(measure="loss", attack="fgsm", eps=eps, value=loss.item(), **shared))
    x = x[:1].requires_grad_()  # the slope of the second logit minus the first, pixel by pixel
    logits = model(x)
    (slope,) = torch.autograd.grad(logits[0, 1] - logits[0, 0], x)
    for name, norm in {"L1": 1, "L2": 2}.items():
        length = slope.flatten().norm(norm).item()
        rows.append(dict(measure=f"{name} norm of the slope", value=length, **shared))
    picture = (127.5 + 127.5 * slope[0, 0] / slope.abs().max()).round().numpy().astype(np.uint8)
    rows.append(
        dict(measure="largest slope", value=slope.abs().max().item(), picture=picture, **shared)
    )
    return rows


# %%
run_experiment(profile, point, eps_train=eps_train, weight_decay=weight_decay, seed=seed)
