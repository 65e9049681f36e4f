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
# # Adversarial training of a small convolutional network
#
# Four ways to train the same network on the ten digits: on clean images, on those of one step of
# the fast gradient sign method, from the image or from a random point of its ball, and on those of
# projected gradient descent. Each is then attacked by both methods.

# %% tags=["parameters"]
profile = "adversarial-training"  # a file of notebooks/profiles/, or a path to one of your own
method = None  # a name of the profile's methods; a list; None: all of the grid
seed = None  # of initialisation, data order and random starts; a list

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import time
from dataclasses import replace

from torch.nn.functional import avg_pool2d

from lib import attacks, data, models
from lib.augmentation import Adversarial, Identity
from lib.study import run_experiment
from lib.training import train


# %%
def point(method, seed, *, network, subset, pooled, recipe, eps_train, methods, steps, radii):
    """Rows of one network: clean error, risk under both attacks, what its training took."""
    whole, (first, some) = data.load("mnist"), subset

    def smaller(images):
        return avg_pool2d(images.float(), pooled).round().byte()

    images = replace(
        whole,
        train_images=smaller(whole.train_images[:first]),
        train_labels=whole.train_labels[:first],
    )
    x, y = smaller(whole.test_images[:some]).float() / 255, whole.test_labels[:some]
    model = models.initialise(models.build(network, 10, 1), seed)
    settings = methods[method]
    adversary = Adversarial(model, eps_train, **settings) if settings else Identity()
    started = time.process_time()
    history = train(model, images, adversary, seed=seed, progress=False, **recipe)
    seconds = time.process_time() - started
    shared = {"examples": len(y), "data": whole.checksum[:12]}
    rows = [
        dict(measure="training seconds", value=seconds, **shared | {"examples": first}),
        dict(measure="risk", attack="none", eps=0.0, value=attacks.risk(model, x, y), **shared),
    ]
    for row in history:  # of the images as they were attacked
        rows.append(dict(measure="training error", epoch=row["epoch"] + 1, value=row["error"],
                         **shared | {"examples": first}))  # fmt: skip
    for eps in radii:
        judges = {
            "fgsm": lambda *of, eps=eps: attacks.fgsm(*of, eps=eps),
            "pgd": lambda *of, eps=eps: attacks.pgd(
                *of, eps=eps, steps=steps, norm="linf", keep="first_success"
            ),
        }
        for name, judge in judges.items():
            value = attacks.risk(model, x, y, judge, batch_size=100)
            rows.append({"measure": "risk", "attack": name, "eps": eps, "value": value, **shared})
    return rows


# %%
run_experiment(profile, point, method=method, seed=seed)
