import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib.augmentation.algebra import Augmentation, Identity, Sample
from lib.augmentation.mixup import Mixup
from lib.augmentation.transforms import Crop, Flip, Jitter
from lib.data import ImageDataset
from lib.models import build, initialise
from lib.training import CheckpointError, train

RECIPE = {"epochs": 4, "seed": 1, "batch_size": 32, "learning_rate": 0.05, "progress": False}


def small(seed=0, channels=1):
    return initialise(build("small_cnn", 3, channels), seed)


def normed(seed=0):
    """With BatchNorm, whose statistics are also part of what training leaves behind."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
        )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    pass


class Spy(Augmentation):
    """Hands its sample on, keeps a copy, and stops the training after `calls` of them."""

    def __init__(self, calls=None):
        self.calls, self.seen = calls, []

    def __repr__(self):  # stopped or not, it is the same augmentation
        return "Spy()"

    def draw(self, sample, generator):
        if len(self.seen) == self.calls:
            raise Stop
        self.seen.append(Sample(sample.x.clone(), sample.y.clone()))
        return sample


def seen(dataset, augmentation=None, **recipe):
    spy = Spy()
    train(small(), dataset, augmentation @ spy if augmentation else spy, **RECIPE | recipe)
    return spy.seen


def test_learns(tiny):
    model = small()
    history = train(model, tiny, Identity(), **RECIPE | {"epochs": 8})
    assert [row["epoch"] for row in history] == list(range(8))
    assert all(0 <= row["error"] <= 1 for row in history)
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["error"] <= 0.1
    with torch.no_grad():
        predicted = model.eval()(tiny.test_images.float() / 255).argmax(1)
    assert (predicted != tiny.test_labels).float().mean() <= 0.1


class Soften(Augmentation):
    def draw(self, sample, generator):
        return Sample(sample.x, 0.7 * sample.y + 0.3 / 3)


def test_first_step_is_down_the_gradient_of_the_soft_cross_entropy(tiny):
    """One step over all examples goes along -(grad mean_i sum_k -y_ik log p_ik + wd theta)."""
    model, decay = small(), 0.05
    start = copy.deepcopy(model)
    x, labels = tiny.train_images.float() / 255, tiny.train_labels
    y = 0.7 * torch.eye(3)[labels] + 0.1
    logits = start.eval()(x)
    loss = -(y * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    recipe = {"epochs": 1, "batch_size": 96, "weight_decay": decay}
    history = train(model, tiny, Soften(), **RECIPE | recipe)
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert history[0]["error"] == pytest.approx((logits.argmax(1) != labels).float().mean().item())
    step, downhill = (
        torch.cat([part.flatten() for part in parts])
        for parts in (
            [new - old for new, old in zip(model.parameters(), start.parameters(), strict=True)],
            [-(old.grad + decay * old) for old in start.parameters()],
        )
    )
    assert torch.cosine_similarity(step, downhill, dim=0) > 0.9999


class Idle(nn.Module):
    """Has a weight that the loss does not depend on: only its decay moves it, lr x wd a step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.read = []

    def forward(self, x):
        self.read.append(self.weight.item())
        return (0 * self.weight).expand(len(x), 3)


def test_rate_is_one_cycle_over_the_whole_training(tiny):
    """Up linearly in the first quarter of the steps, down linearly to zero in the others."""
    model, decay = Idle(), 0.01
    recipe = {"epochs": 8, "learning_rate": 0.5, "momentum": 0.0, "weight_decay": decay}
    train(model, tiny, Identity(), **RECIPE | recipe)
    read = torch.tensor([*model.read, model.weight.item()], dtype=torch.float64)
    rates = (1 - read[1:] / read[:-1]) / decay
    assert rates.argmax() == 6
    assert rates.max().item() == pytest.approx(0.5)
    up, down = rates[:7].diff(), rates[6:].diff()
    assert (up > 0).all()
    assert torch.allclose(up, up[0])
    assert torch.allclose(down, torch.tensor(-0.5 / 18).double())


def test_deterministic_for_a_seed(tiny, global_rng_untouched):
    def run(seed):
        model = small()
        history = global_rng_untouched(
            lambda: train(model, tiny, Mixup() @ Crop(1), **RECIPE | {"seed": seed})
        )
        return weights(model), history

    (one, first), (again, second), (other, _) = run(1), run(1), run(2)
    assert same(one, again)
    assert first == second
    assert not same(one, other)


def test_augmentation_draws_anew_in_every_epoch(tiny):
    class Record(Augmentation):
        def draw(self, sample, generator):
            record.append(torch.rand(4, generator=generator))
            return sample

    record = []
    train(small(), tiny, Record(), **RECIPE)
    assert len({tuple(draw.tolist()) for draw in record}) == len(record) == 12


def test_every_epoch_sees_every_example_once_in_another_order(tiny):
    samples = seen(tiny)
    assert len(samples) == 4 * 3
    rows = torch.cat([torch.cat([s.x.flatten(1), s.y], 1) for s in samples]).view(4, 96, -1)
    clean = torch.cat(
        [tiny.train_images.flatten(1).float() / 255, torch.eye(3)[tiny.train_labels]], 1
    )
    for epoch in rows:
        nearest = torch.cdist(epoch, clean, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        assert nearest.values.max() < 1e-5
        assert nearest.indices.sort().values.tolist() == list(range(96))
    assert len({epoch.numpy().tobytes() for epoch in rows}) == 4


@pytest.mark.parametrize("augmentation", [Flip(), Mixup() @ Jitter()], ids=["Flip", "two"])
def test_order_depends_on_the_seed_and_not_on_the_augmentation(tiny, augmentation):
    plain, augmented = seen(tiny), seen(tiny, augmentation)
    assert all(torch.equal(a.x, b.x) for a, b in zip(plain, augmented, strict=True))
    assert not torch.equal(plain[0].x, seen(tiny, seed=2)[0].x)


def test_order_depends_on_neither_the_network_nor_the_rate(tiny):
    spy = Spy()
    train(normed(), tiny, spy, **RECIPE | {"learning_rate": 0.01})
    assert all(torch.equal(a.x, b.x) for a, b in zip(seen(tiny), spy.seen, strict=True))


# ------------------------------------------------------------------ checkpoints


def interrupted(model, dataset, calls, path, **recipe):
    spy = Spy(calls)
    with pytest.raises(Stop):
        train(model, dataset, Mixup() @ spy, checkpoint=path, checkpoint_seconds=0,
              **RECIPE | recipe)  # fmt: skip


@pytest.mark.parametrize("network", [small, normed])
@pytest.mark.parametrize("calls", [0, 2, 3, 7, 11], ids=lambda calls: f"after {calls} batches")
def test_resumes_to_the_same_weights(network, calls, tiny, tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    whole = network()
    history = train(whole, tiny, Mixup() @ Spy(), **RECIPE)
    interrupted(network(), tiny, calls, path)
    resumed, spy = network(), Spy()
    settings = RECIPE | {"checkpoint": path, "checkpoint_seconds": 0}
    assert train(resumed, tiny, Mixup() @ spy, **settings) == history
    assert len(spy.seen) == 12 - calls // 3 * 3  # finished epochs are not trained again
    assert same(weights(resumed), weights(whole))


def test_resumes_after_two_interruptions_whatever_the_model_is_by_then(tiny, tmp_path):
    whole = normed()
    history = train(whole, tiny, Mixup() @ Spy(), **RECIPE)
    interrupted(normed(), tiny, 4, tmp_path / "checkpoint")
    interrupted(normed(), tiny, 4, tmp_path / "checkpoint")
    resumed = normed(seed=9)
    assert train(resumed, tiny, Mixup() @ Spy(), checkpoint=tmp_path / "checkpoint", **RECIPE) == (
        history
    )
    assert same(weights(resumed), weights(whole))


def test_a_finished_training_is_loaded(tiny, tmp_path):
    path = tmp_path / "checkpoint"
    first, second, spy = normed(), normed(seed=9), Spy()
    history = train(first, tiny, Spy(), checkpoint=path, **RECIPE)
    assert train(second, tiny, spy, checkpoint=str(path), **RECIPE) == history
    assert same(weights(first), weights(second))
    assert not spy.seen


def test_a_checkpoint_changes_nothing(tiny, tmp_path):
    without, with_one = small(), small()
    train(without, tiny, Mixup(), **RECIPE)
    train(with_one, tiny, Mixup(), checkpoint=tmp_path / "c", checkpoint_seconds=0, **RECIPE)
    assert same(weights(without), weights(with_one))


def test_nothing_is_left_beside_the_checkpoint(tiny, tmp_path):
    path = tmp_path / "checkpoint"
    interrupted(small(), tiny, 7, path)
    train(small(), tiny, Mixup() @ Spy(), checkpoint=path, **RECIPE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def checkpoint(tiny, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    interrupted(small(), tiny, 7, path)
    return path


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def few_bytes(path):
    path.write_bytes(path.read_bytes()[:5])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("these are not weights\n" * 100)


def pickled(path):
    torch.save({"model": torch.zeros(3)}, path)


def somebody_elses(path):
    save_file({"weight": torch.zeros(3)}, path)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [half, few_bytes, empty, text, pickled, somebody_elses, folder])
def test_a_damaged_or_foreign_file_is_named(damage, checkpoint, tiny, refuses):
    damage(checkpoint)
    refuses(
        lambda: train(small(), tiny, Mixup(), checkpoint=checkpoint, **RECIPE),
        checkpoint, error=CheckpointError,
    )  # fmt: skip
    assert issubclass(CheckpointError, ValueError)


def other_data(dataset):
    images = 255 - dataset.train_images
    return ImageDataset(
        dataset.name, dataset.classes, images, dataset.train_labels,
        dataset.test_images, dataset.test_labels,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"epochs": 5}, {"batch_size": 16}, {"learning_rate": 0.01},
               {"weight_decay": 0.1}, "data", "network", "augmentation"], ids=str,
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused(change, checkpoint, tiny, refuses):
    model = normed() if change == "network" else small()
    dataset = other_data(tiny) if change == "data" else tiny
    augmentation = (Mixup(0.5) if change == "augmentation" else Mixup()) @ Spy()
    recipe = RECIPE | (change if isinstance(change, dict) else {})
    refuses(
        lambda: train(model, dataset, augmentation, checkpoint=checkpoint, **recipe),
        checkpoint, error=CheckpointError,
    )  # fmt: skip


@pytest.mark.parametrize("setting", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_bad_counts(setting, value, tiny, refuses):
    refuses(lambda: train(small(), tiny, Identity(), **RECIPE | {setting: value}), setting, value)
