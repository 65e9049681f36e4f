import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lib import data

REAL = Path(os.environ.get("DATA_ROOT", "no DATA_ROOT"))
FOLDERS = {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}


def real(name):
    if not (REAL / FOLDERS[name]).is_dir():
        pytest.skip(f"{name} is not on this machine: set DATA_ROOT to the folder that holds it")
    return REAL


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def check_layout(dataset, train, test, shape):
    for images, labels, n in (
        (dataset.train_images, dataset.train_labels, train),
        (dataset.test_images, dataset.test_labels, test),
    ):
        assert images.dtype == torch.uint8
        assert images.shape == (n, *shape)
        assert labels.dtype == torch.int64
        assert labels.shape == (n,)
        assert labels.unique().tolist() == list(range(len(dataset.classes)))
    assert isinstance(dataset.classes, tuple)
    assert all(isinstance(name, str) for name in dataset.classes)
    assert isinstance(dataset.checksum, str)
    assert dataset.checksum


def test_digits_layout(offline):
    dataset = data.load("digits")
    check_layout(dataset, 1297, 500, (1, 8, 8))
    assert dataset.name == "digits"
    assert len(dataset.classes) == 10


def test_digits_are_sklearns_each_exactly_once():
    dataset = data.load("digits")
    images = torch.cat([dataset.train_images, dataset.test_images]).numpy()
    ours = np.column_stack(
        [
            np.rint(images.reshape(1797, 64) / 255 * 16),
            torch.cat([dataset.train_labels, dataset.test_labels]),
        ]
    )
    theirs = np.column_stack(load_digits(return_X_y=True))
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_split_is_stratified_and_fixed():
    first, second = data.load("digits"), data.load("digits")
    assert first.checksum == second.checksum
    assert torch.equal(first.test_images, second.test_images)
    every = np.bincount(load_digits().target)
    assert np.abs(first.test_labels.bincount().numpy() - every * 500 / 1797).max() <= 1


def test_checksum_depends_on_every_part(tiny):
    parts = [tiny.train_images, tiny.train_labels, tiny.test_images, tiny.test_labels]
    seen = {tiny.checksum}
    for i, part in enumerate(parts):
        other = part.clone()
        other.view(-1)[0] = 1 - other.view(-1)[0].clamp(max=1)
        replaced = [*parts[:i], other, *parts[i + 1 :]]
        seen.add(data.ImageDataset(tiny.name, tiny.classes, *replaced).checksum)
    assert len(seen) == 5


def test_mnist_is_the_file_on_disk():
    root = real("mnist")
    dataset = data.load("mnist", root=root, download=False)
    check_layout(dataset, 60_000, 10_000, (1, 28, 28))
    raw = root / FOLDERS["mnist"]
    for part, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("t10k", dataset.test_images, dataset.test_labels),
    ):
        pixels = np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8, offset=16)
        assert np.array_equal(images.numpy().ravel(), pixels)
        digits = np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
        assert np.array_equal(labels.numpy(), digits)


def test_cifar10_is_the_file_on_disk():
    root = real("cifar10")
    dataset = data.load("cifar10", root=root, download=False)
    check_layout(dataset, 50_000, 10_000, (3, 32, 32))
    for file, images, labels in (
        ("data_batch_2", dataset.train_images[10_000:20_000], dataset.train_labels[10_000:20_000]),
        ("test_batch", dataset.test_images, dataset.test_labels),
    ):
        batch = pickle.loads((root / FOLDERS["cifar10"] / file).read_bytes(), encoding="bytes")
        assert np.array_equal(images.numpy().reshape(-1, 3072), batch[b"data"])
        assert labels.tolist() == batch[b"labels"]
    meta = pickle.loads((root / FOLDERS["cifar10"] / "batches.meta").read_bytes())
    assert list(dataset.classes) == meta["label_names"]


def test_unknown_name(refuses):
    refuses(lambda: data.load("imagenet"), "imagenet", "digits", "mnist", "cifar10", "svhn")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
@pytest.mark.parametrize("download", [False, True])
def test_missing_says_where_it_looked_and_how_to_supply_it(
    name, download, tmp_path, offline, refuses
):
    message = refuses(
        lambda: data.load(name, root=tmp_path, download=download),
        name, tmp_path, "DATA_ROOT", error=data.DataNotFound,
    )  # fmt: skip
    assert "root" in message.replace("DATA_ROOT", "")
    assert issubclass(data.DataNotFound, FileNotFoundError)


def test_root_is_the_argument_else_the_environment(tmp_path, monkeypatch, refuses):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "environment"))
    refuses(
        lambda: data.load("mnist", download=False),
        tmp_path / "environment", error=data.DataNotFound,
    )  # fmt: skip
    refuses(
        lambda: data.load("mnist", root=tmp_path / "argument", download=False),
        tmp_path / "argument", error=data.DataNotFound,
    )  # fmt: skip


def corrupt(file, how):
    content = file.read_bytes()
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "overwritten":
        content = b"not a data set\n" * 10
    else:
        content = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "overwritten", "one bit flipped"])
@pytest.mark.parametrize(
    ("name", "file"), [("mnist", "t10k-labels-idx1-ubyte"), ("cifar10", "test_batch")]
)
def test_corrupted_file(name, file, how, tmp_path, refuses):
    folder = tmp_path / FOLDERS[name]
    folder.mkdir(parents=True)
    for source in (real(name) / FOLDERS[name]).iterdir():
        if source.name == file:
            shutil.copyfile(source, folder / file)
        else:
            (folder / source.name).symlink_to(source.resolve())
    corrupt(folder / file, how)
    refuses(
        lambda: data.load(name, root=tmp_path, download=False),
        name, folder, error=(ValueError, data.DataNotFound),
    )  # fmt: skip


def test_a_tilde_in_the_root_is_the_home_folder(tmp_path, monkeypatch, refuses):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_ROOT", "~/images")
    refuses(lambda: data.load("mnist", download=False), tmp_path / "images",
            error=data.DataNotFound)  # fmt: skip


def test_some_classes_alone_are_renumbered_in_the_order_given():
    digits = data.load("digits")
    two = data.only(digits, (7, 3))
    assert two.classes == ("7", "3")
    for part in ("train", "test"):
        images, labels = (getattr(two, f"{part}_{what}") for what in ("images", "labels"))
        whole, own = (getattr(digits, f"{part}_{what}") for what in ("images", "labels"))
        assert set(labels.tolist()) == {0, 1}
        for number, label in enumerate((7, 3)):
            assert torch.equal(images[labels == number], whole[own == label])
    assert two.checksum != digits.checksum


@pytest.mark.parametrize("labels", [(3, 3), (), (3, 10), (-1,)])
def test_classes_that_are_not_there_or_there_twice(labels, refuses):
    refuses(lambda: data.only(data.load("digits"), labels), "label")


def test_the_first_data_set_that_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    monkeypatch.setattr(data, "_read", lambda *of: (_ for _ in ()).throw(OSError("no network")))
    assert data.first_there("mnist", "digits").name == "digits"
    with pytest.raises(data.DataNotFound, match="mnist"):
        data.first_there("cifar10", "mnist")
