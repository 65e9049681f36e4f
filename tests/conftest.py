"""What all tests share: one thread, reproducible examples, a tiny data set, a house for a study."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from lib import training
from lib.data import ImageDataset
from lib.records import provenance

pytest_plugins = ["tests.reach"]
torch.set_num_threads(1)  # small tensors: more threads only get in each other's way
settings.register_profile("book", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("book")


@pytest.fixture(scope="session")
def refuses():
    """`refuses(call, *said)`: `call` raises `error`, whose one line says all of `said`."""

    def check(call, *said, error=ValueError):
        with pytest.raises(error) as caught:
            call()
        message = str(caught.value)
        assert message
        assert "\n" not in message
        for part in said:
            assert str(part) in message
        return message

    return check


@pytest.fixture(scope="session")
def global_rng_untouched():
    """`global_rng_untouched(call)`: the value of `call()`, which draws nothing from torch's RNG."""

    def check(call):
        before = torch.get_rng_state()
        value = call()
        assert torch.equal(torch.get_rng_state(), before)
        return value

    return check


@pytest.fixture(scope="session")
def tiny():
    """Three classes of 8 x 8 images: a bright band whose place is the class, on noise."""
    rng = torch.Generator().manual_seed(0)

    def draw(n):
        labels = torch.arange(n) % 3
        images = torch.randint(0, 100, (n, 1, 8, 8), generator=rng)
        for image, label in zip(images, labels, strict=True):
            image[:, 3 * label : 3 * label + 2] += 150
        return images.to(torch.uint8), labels

    return ImageDataset("tiny", ("top", "middle", "bottom"), *draw(96), *draw(48))


@pytest.fixture
def delicate():
    """A network that shows every careless call, and a check that it is as it was.

    It has BatchNorm and dropout, parts of it train and parts don't, some parameters ask for a
    gradient and some don't, and one holds a gradient already.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
            nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3),
        )  # fmt: skip
        model(torch.rand(32, 1, 4, 4))  # statistics of their own
    model.train()
    model[5].eval()
    model[0].weight.requires_grad_(False)
    model[6].bias.grad = torch.ones(3)

    def state():
        modes = [module.training for module in model.modules()]
        needs = [parameter.requires_grad for parameter in model.parameters()]
        gradients = [parameter.grad is not None for parameter in model.parameters()]
        values = {name: value.clone() for name, value in model.state_dict().items()}
        return (modes, needs, gradients), values

    before = state()

    def check():
        flags, values = state()
        assert flags == before[0]
        assert all(torch.equal(value, before[1][name]) for name, value in values.items())
        assert torch.equal(model[6].bias.grad, torch.ones(3))

    return model, check


@pytest.fixture
def house(tmp_path, monkeypatch):
    """`house(name)`: from now on runs/ and results/ are those of a folder of that name."""

    def move(name="house"):
        monkeypatch.setenv("RUNS", str(tmp_path / name / "runs"))
        monkeypatch.setenv("RESULTS", str(tmp_path / name / "results"))
        return tmp_path / name

    move()
    return move


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """`engine(module)` adds a line to a module of a copy of lib/ that provenance looks at."""
    folder = tmp_path / "engine" / "lib"
    shutil.copytree(provenance.ROOT / "lib", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", folder.parent)

    def change(module):
        with open(folder / f"{module.replace('.', '/')}.py", "a") as file:
            file.write("changed = True\n")
        provenance.code_version.cache_clear()

    provenance.code_version.cache_clear()
    yield change
    provenance.code_version.cache_clear()


@pytest.fixture
def trainings(monkeypatch):
    """A list that grows by the number of epochs whenever a network is trained."""
    train, found = training.train, []

    def counted(model, *arguments, checkpoint=None, **settings):
        there = Path(checkpoint).exists()
        history = train(model, *arguments, checkpoint=checkpoint, **settings)
        if not there:
            found.append(len(history))
        return history

    monkeypatch.setattr(training, "train", counted)
    return found


@pytest.fixture
def cifar():
    if not Path(os.environ.get("DATA_ROOT", ""), "cifar-10-batches-py").is_dir():
        pytest.skip("CIFAR-10 is not on this machine: name its folder in DATA_ROOT")
