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
# # Attacks by way of a surrogate
#
# A network is trained on one half of the threes and sevens. An attacker who sees nothing of it but
# its labels has the other half, and trains networks of their own on these labels: a linear one, one
# of the target's kind, and several of that kind together. What fools these is then tried on the
# target, beside an attack that knows the target and one that knows nothing.

# %% tags=["parameters"]
profile = "transfer"  # a file of notebooks/profiles/, or a path to one of your own
target = None  # the kind of network, a name of the profile's recipes; a list; None: all
seed = None  # of the target, of the surrogates and of the random signs; a list; None: all

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
from dataclasses import replace

from lib import attacks, data, models
from lib.augmentation import Identity
from lib.seeds import generator
from lib.study import run_experiment
from lib.surrogate import Together, random_signs, train_surrogate, transferred
from lib.training import train

# %%
KINDS = {
    "linear": lambda shape: models.dense(shape, 2),
    "mlp": lambda shape: models.dense(shape, 2, [100]),
    "small_cnn": lambda shape: models.build("small_cnn", 2, shape[0]),
}


def point(target, seed, *, labels, known, test, recipes, surrogates, steps, radii):
    """Rows of one target: its risk under each attacker's attacks, and how far surrogates agree."""
    whole = data.only(data.load("mnist"), labels)
    x, y = whole.test_images[:test].float() / 255, whole.test_labels[:test]
    shared = {"examples": len(y), "data": whole.checksum[:12]}
    rows = []

    def half(part):
        images, own = whole.train_images[part], whole.train_labels[part]
        return replace(whole, train_images=images, train_labels=own)

    def initialised(kind, seed):
        return models.initialise(KINDS[kind](x.shape[1:]), seed)

    def recipe(kind, seed):
        return dict(recipes[kind], seed=seed, progress=False)

    own = initialised(target, seed)
    train(own, half(slice(known)), Identity(), **recipe(target, seed))

    def imitated(by, kind, number):
        """A network of the attacker's that was trained on the target's labels."""
        model, start = initialised(kind, 1000 + 100 * seed + number), 1000 + 100 * seed + number
        share = train_surrogate(model, own, half(slice(known, None)), **recipe(kind, start))
        rows.append(dict(measure="agreement", by=by, number=number, value=share, **shared))
        return model

    same = [imitated("one of its kind", target, number) for number in range(surrogates)]
    attackers = {
        "white box": own,
        "a linear one": imitated("a linear one", "linear", 0),
        "one of its kind": same[0],
        "several of its kind": Together(same),
    }

    def risk(by, attack, eps, how):
        value = attacks.risk(own, x, y, how)
        rows.append(dict(measure="risk", by=by, attack=attack, eps=eps, value=value, **shared))

    risk("nobody", "none", 0.0, None)
    for eps in radii:
        ways = {
            "fgsm": lambda model, x, y, eps=eps: attacks.fgsm(model, x, y, eps=eps),
            "pgd": lambda model, x, y, eps=eps: attacks.pgd(
                model, x, y, eps=eps, steps=steps, norm="linf"
            ),
        }
        for name, way in ways.items():
            for by, model in attackers.items():
                risk(by, name, eps, transferred(model, way))
        risk("random signs", "none", eps, random_signs(eps, generator(seed, "signs")))
    return rows


# %%
run_experiment(profile, point, target=target, seed=seed)
