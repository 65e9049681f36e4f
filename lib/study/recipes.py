"""What the engine has to say of a profile of the study: its augmentations, measures and data."""

from functools import reduce

import torch

from lib import augmentation as library
from lib import checks, data, measures, models
from lib.gan.training import recipe_of
from lib.records import schema


def check(profile):
    """Refuse settings that would else be refused only after a training."""
    where = profile.path.name
    checks.one_of(profile.dataset, data.CLASSES, f"{where}: data set")
    checks.one_of(profile.network, models.NETWORKS, f"{where}: network")
    for name in profile.augmentations:
        for line in profile.factors(name):
            _checked(where, *line)
    for name, settings in profile.measures.items():
        module = measures.module(name)
        schema.fit(module.Settings, settings, f"{where}: measures: {name}")


def augmentation(profile, name, p=1.0, generator=None, model=None):
    """The augmentation `name` with probability `p`; "a+b" is B @ A, each factor at `p`.

    `generator(factor)` gives the trained generator of a factor that needs one;
    `lib.study.augmentation` brings it along. `model` is the network that an attack is made on.
    ValueError if an augmentation attacks and there is none.
    """
    made = []
    for part, kind, arguments in profile.factors(name):
        if kind == "Generative":
            made.append(library.Generative(generator(part)))
        elif kind == "Adversarial" and model is None:
            raise ValueError(f"augmentation {part!r} attacks a network: say which, with model=")
        else:
            first = (model,) if kind == "Adversarial" else ()
            made.append(_class(kind)(*first, **arguments))
    whole = reduce(lambda inner, outer: outer @ inner, made) if made else library.Identity()
    return library.with_probability(whole, p)


def _checked(where, name, kind, arguments):
    made, what = _class(kind), f"{where}: augmentations: {name!r}"
    if made is None:
        raise ValueError(f"{what}: {kind!r} is no class of lib.augmentation")
    try:
        if made is library.Generative:
            recipe_of(**arguments)
        elif made is library.Adversarial:
            made(torch.nn.Identity(), **arguments)
        else:
            made(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error


def _class(kind):
    """An augmentation that a line of a profile may name; None if there is none of that name."""
    made = getattr(library, kind, None)
    ready = isinstance(made, type) and issubclass(made, library.Augmentation)
    abstract = ready and made.draw is library.Augmentation.draw
    unnamed = made in (library.Composition, library.Sometimes, library.Transform)
    return made if ready and not abstract and not unnamed else None
