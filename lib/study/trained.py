"""What a point needs before it is measured: data, network and generators, trained or loaded.

Every stream of random numbers is named by the point's seed and its purpose, so a network does not
depend on which ones were made before it, nor by which process.
"""

import shutil
import sys
from dataclasses import replace
from functools import cache

import torch
from PIL import Image

from lib import data, gan, models, records, runtime, training
from lib.checkpoint import CheckpointError
from lib.files import replacing
from lib.gan.quality import Judge
from lib.measures.subject import Subject
from lib.records.provenance import code_version
from lib.runtime import device
from lib.study import recipes

_load = cache(data.load)


def dataset(profile):
    """The profile's data set; with a subset, of each part only the first so many images."""
    whole = _load(profile.dataset)
    train, test = profile.subset or (None, None)
    return replace(
        whole,
        train_images=whole.train_images[:train],
        train_labels=whole.train_labels[:train],
        test_images=whole.test_images[:test],
        test_labels=whole.test_labels[:test],
    )


def checkpoint_path(profile, point):
    """The file of the point's network: another one for other settings of the training.

    Nor is one of another engine, or in another precision, taken for it.
    """
    version = profile.training_version(point.augmentation)
    kind = f"checkpoints-{version}-{code_version('training', 'models', 'augmentation')}"
    precision = profile.training["precision"] if runtime.accelerated() else "fp32"
    return records.runs() / profile.name / f"{kind}-{precision}" / f"{point}.safetensors"


def generator_path(profile, factor):
    """The file of the generator that a factor of an augmentation needs."""
    folder = f"generators-{_generator_version(profile, factor)}"
    return records.runs() / profile.name / folder / f"{factor}.safetensors"


def _generator_version(profile, factor):
    """Where points are remade when the engine changes, so are the generators."""
    code = [code_version("gan.training")] if profile.sweep["remake"] else []
    return "-".join([profile.generator_version(factor), *code])


def network(profile):
    """The profile's network on the device, not initialised; compiled, where it is to be."""
    precision = _set_up(profile)
    images = dataset(profile)
    shape, n = tuple(images.train_images.shape[1:]), len(images.train_images)
    kind = profile.network, len(images.classes), shape[0], precision
    model = models.build(*kind).to(device())
    if runtime.accelerated() and profile.sweep["compile"]:
        sizes = min(profile.training["batch_size"], n), profile.sweep["batch"]
        _compile(kind, shape, sizes)
        model.compiled = dict(zip((True, False), sizes, strict=True))
    return model


def _set_up(profile):
    """Switch the process to the precision in which the profile's networks run here; return it."""
    precision = profile.training["precision"] if runtime.accelerated() else "fp32"
    runtime.set_up(precision)
    return precision


@cache
def _compile(kind, shape, sizes):
    """Compile a kind of network, once a process."""
    model = models.build(*kind).to(device())
    model.compiled = dict(zip((True, False), sizes, strict=True))
    runtime.warm_up(model, shape)


def compilations():
    """How many kinds of network the process has compiled."""
    return _compile.cache_info().misses


def train_or_load(profile, point, *, progress=True):
    """The point's trained network, in eval mode, from its checkpoint if there is one.

    A damaged or foreign checkpoint is named on stderr and made again.
    """
    images, model, path = dataset(profile), network(profile), checkpoint_path(profile, point)
    own = augmentation(profile, point.augmentation, point.p, model=model, progress=progress)

    def train():
        settings = dict(profile.training, seed=point.seed, checkpoint=path, progress=progress)
        del settings["precision"]
        with runtime.memory_for("training: batch_size:", settings["batch_size"]):
            training.train(models.initialise(model, point.seed), images, own, **settings)
        return model.eval()

    return _again_if_refused(train, path)


def augmentation(profile, name, p=1.0, *, model=None, progress=True):
    """The profile's augmentation `name` with probability `p`, its generators trained or loaded.

    `model` is the network that is trained on it, which some attack.
    """
    return recipes.augmentation(
        profile, name, p, lambda part: generator(profile, part, progress=progress), model
    )


def generator(profile, factor, *, progress=True):
    """The trained generator of a factor, from its checkpoint if there is one.

    It has been judged after every round, and a sheet of its previews lies beside the checkpoint.
    """
    ((_, _, arguments),) = profile.factors(factor)
    _set_up(profile)
    path, critic = generator_path(profile, factor), judge(profile)

    def after_round(network, record, previews):
        record["distance"] = critic.distance(critic.generated(network))
        record["judge"] = critic.name
        _sheet(previews, path.with_suffix(".png"))

    def train():
        with runtime.memory_for(f"{factor}: batch_size:", arguments.get("batch_size", "of 64")):
            return gan.train_gan(
                dataset=critic.images, after_round=after_round, checkpoint=path, device=device(),
                progress=progress, **arguments,
            )  # fmt: skip

    kept = kept_generator_path(profile, factor)
    if kept.exists() and not path.exists():
        _copy(kept, path)
    trained = _again_if_refused(train, path)
    if not kept.exists():
        _copy(path, kept)
    if runtime.accelerated():
        trained.precision = arguments.get("precision", "fp32")
        trained.to(memory_format=torch.channels_last)
    return trained


def _sheet(previews, path):
    """Images uint8 `[rounds, classes, c, h, w]` as one picture, a line a round."""
    rounds, classes, c, h, w = previews.shape
    tiled = previews.permute(0, 3, 1, 4, 2).reshape(rounds * h, classes * w, c).squeeze(2)
    with replacing(path) as temporary:
        Image.fromarray(tiled.cpu().numpy()).save(temporary, "PNG")


def kept_generator_path(profile, factor):
    """Where the finished generator is kept with the records."""
    file = f"{factor}-{_generator_version(profile, factor)}.safetensors"
    return records.results() / profile.name / "generators" / file


def _copy(source, target):
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _again_if_refused(train, path):
    try:
        return train()
    except CheckpointError as error:
        print(f"{error}: set aside, and trained again", file=sys.stderr)
        path.replace(path.with_suffix(".refused"))
        return train()


def judge(profile):
    """Of generated images, in the eyes of the study's network at p = 0 of the first seed."""
    seed = profile.grid["seed"][0]
    point = profile.point("none", 0, seed)
    name = checkpoint_path(profile, point).parent.name  # another one has features of its own
    return Judge(
        name, dataset(profile), lambda: train_or_load(profile, point, progress=False), seed
    )


def subject(profile, point, *, progress=True):
    """The point ready to be measured: its network trained or loaded, with the data."""
    model = train_or_load(profile, point, progress=progress)
    own = augmentation(profile, point.augmentation, point.p, model=model, progress=progress)
    return Subject(profile, point, model, dataset(profile), own)
