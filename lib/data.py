"""The data sets, as tensors of bytes."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lib import checks

# `ImageDataset.checksum` of the real thing. torchvision checks digests of its own for SVHN and
# CIFAR-10, but none for MNIST once it is unpacked.
CHECKSUMS = {
    "digits": "c1c5379cabca3df693755f8328a3147d7ffc5cdb3f59620351a96a0c932885d7",
    "mnist": "1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b",
    "cifar10": "9048fcbac9c08a64d57a7c5a5a66750a974ad4eab380914df129f7e223d823df",
}
CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "svhn": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer",
                "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
FOLDERS = {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py", "svhn": "."}


class DataNotFound(FileNotFoundError):
    """The files of a data set are not there and could not be fetched."""


@dataclass(frozen=True)
class ImageDataset:
    """Images uint8 `[n, c, h, w]` with their labels int64 `[n]`, split into train and test."""

    name: str
    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @cached_property
    def checksum(self):
        """SHA-256 over the bytes of the images and labels, train before test."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(part.contiguous().numpy())
        return digest.hexdigest()


def load(name, root=None, download=True):
    """The data set `name`: "digits" (comes with scikit-learn), "mnist", "cifar10" or "svhn".

    The last three lie under `root`, else under the environment variable DATA_ROOT, else in the
    user's cache folder, in torchvision's layout; `download` fetches what is missing.

    Raises ValueError for an unknown name or for files whose content is not the data set's, and
    DataNotFound where the files are missing and can't be fetched.
    """
    checks.one_of(name, CLASSES, "data set")
    if name == "digits":
        return _digits()
    root = Path(root or os.environ.get("DATA_ROOT") or _cache()).expanduser()
    where = root / FOLDERS[name]
    try:
        arrays = _read(name, root, download)
    except (RuntimeError, OSError) as error:
        raise DataNotFound(
            f"data set {name!r} is not complete in {where} and could not be fetched "
            f"({' '.join(str(error).split())}): put torchvision's files there, or name the folder "
            "that holds them by root= or by the environment variable DATA_ROOT"
        ) from error
    except Exception as error:  # the unpacking of a damaged file fails in many ways
        raise ValueError(f"data set {name!r} in {where} is damaged: {error}") from error
    dataset = ImageDataset(name, CLASSES[name], *arrays)
    if dataset.checksum != CHECKSUMS.get(name, dataset.checksum):
        raise ValueError(f"data set {name!r} in {where} is damaged: its checksum is wrong")
    return dataset


def only(dataset, labels):
    """The images of some classes alone, which are renumbered in the order of `labels`.

    ValueError if a label is there twice, or is none of the data set's.
    """
    labels = [checks.one_of(label, range(len(dataset.classes)), "label") for label in labels]
    if len(set(labels)) < len(labels) or not labels:
        raise ValueError(f"labels must be some classes, each of them once, got {labels}")

    def part(images, own):
        here = torch.isin(own, torch.tensor(labels))
        number = torch.full((len(dataset.classes),), -1)
        number[labels] = torch.arange(len(labels))
        return images[here], number[own[here]]

    names = tuple(dataset.classes[label] for label in labels)
    train = part(dataset.train_images, dataset.train_labels)
    return ImageDataset(
        f"{dataset.name} {', '.join(names)}", names, *train,
        *part(dataset.test_images, dataset.test_labels),
    )  # fmt: skip


def first_there(*names):
    """The first of the data sets that is on this machine or can be fetched.

    Raises DataNotFound, of the last, if none is.
    """
    for name in names[:-1]:
        try:
            return load(name)
        except DataNotFound:
            continue
    return load(names[-1])


def _cache():
    from platformdirs import user_cache_dir

    return user_cache_dir("augmentation-book")


def _digits():
    """scikit-learn's 1,797 digits; the 500 test images are drawn class by class, once for all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(1797), test_size=500, stratify=digits.target, random_state=0
    )
    images = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return ImageDataset(
        "digits", CLASSES["digits"], images[train], labels[train], images[test], labels[test]
    )


def _read(name, root, download):
    from lib.vision import datasets

    if name == "svhn":
        parts = [datasets.SVHN(root, split=split, download=download) for split in ("train", "test")]
        pairs = [(part.data, part.labels) for part in parts]
    else:
        kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
        parts = [kind(root, train=train, download=download) for train in (True, False)]
        if name == "mnist":
            pairs = [(part.data.unsqueeze(1), part.targets) for part in parts]
        else:
            pairs = [(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts]
    return [
        torch.as_tensor(np.ascontiguousarray(array), dtype=dtype)
        for pair in pairs
        for array, dtype in zip(pair, (torch.uint8, torch.int64), strict=True)
    ]
