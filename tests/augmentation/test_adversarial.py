"""Adversarial training: its attack in closed form and by another way, the network left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib import attacks
from lib.augmentation import Adversarial, Flip, Mixup, Sample, changed, with_probability
from lib.data import ImageDataset
from lib.training import to_sample, train

RECIPE = {"epochs": 4, "seed": 1, "batch_size": 32, "learning_rate": 0.05, "progress": False}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(classes=3, side=8, seed=0, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 3)]
        return nn.Sequential(layers[0], *[nn.BatchNorm2d(4)] * norm, *layers[1:])


def linear(classes=2, side=8, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))


def hard(s=12, classes=3, side=8, seed=0):
    draw = rng(seed)
    labels = torch.randint(classes, (s,), generator=draw)
    return Sample(torch.rand(s, 1, side, side, generator=draw), F.one_hot(labels, classes).float())


def soft(s=12, classes=3, side=8, seed=0):
    y = torch.rand(s, classes, generator=rng(seed + 1)) + 0.05
    return Sample(hard(s, classes, side, seed).x, y / y.sum(1, keepdim=True))


# ------------------------------------------------------------------ the attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("start", ["zero", "ball"])
def test_with_hard_labels_it_is_the_attack_of_its_name(norm, steps, start):
    model, sample = small(norm=True).train(), hard()
    drawn = Adversarial(model, 0.1, steps, norm, start=start)(sample, rng(3))
    expected = attacks.pgd(
        copy.deepcopy(model).eval(), sample.x, sample.y.argmax(1), eps=0.1, steps=steps,
        norm=norm, start=start, generator=rng(3),
    )  # fmt: skip
    assert torch.equal(drawn.x, expected)
    assert torch.equal(drawn.y, sample.y)
    if steps == 1 and start == "zero":
        fast = attacks.fgsm(model, sample.x, sample.y.argmax(1), eps=0.1, norm=norm)
        assert torch.allclose(drawn.x, fast, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_soft_labels_go_along_the_gradient_of_their_own_cross_entropy(norm):
    """Of a linear network it is W^T (softmax - y), here by hand."""
    model, sample, eps = linear(3).double(), soft(), 0.02
    sample = Sample(0.4 + 0.2 * sample.x.double(), sample.y.double())  # no clipping
    drawn = Adversarial(model, eps, 1, norm)(sample, rng())
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    p = (sample.x.flatten(1) @ weight.T + bias).softmax(1)
    gradient = (p - sample.y) @ weight
    if norm == "linf":
        expected = eps * gradient.sign()
    else:
        expected = eps * gradient / gradient.norm(dim=1, keepdim=True)
    assert torch.allclose((drawn.x - sample.x).flatten(1), expected, atol=1e-9)
    assert torch.equal(drawn.y, sample.y)


@given(
    seed=st.integers(0, 9), steps=st.integers(1, 4), eps=st.floats(0, 0.5),
    norm=st.sampled_from(["linf", "l2"]), start=st.sampled_from(["zero", "ball"]),
)  # fmt: skip
def test_stays_in_the_ball_and_among_images(seed, steps, eps, norm, start):
    sample = soft(seed=seed)
    x = Adversarial(small(), eps, steps, norm, start=start)(sample, rng()).x
    delta = (x - sample.x).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (length <= eps + 1e-5).all()
    assert ((x >= 0) & (x <= 1)).all()


@given(seed=st.integers(0, 99), mixed=st.booleans())
def test_raises_the_loss_of_a_linear_network(seed, mixed):
    """Cross-entropy is convex in x there: no clipped step uphill goes down."""
    model, sample = linear(3, seed=seed), (soft if mixed else hard)(seed=seed)
    x = Adversarial(model, 0.2, 1)(sample, rng()).x
    before, after = (F.cross_entropy(model(part), sample.y, reduction="none")
                     for part in (sample.x, x))  # fmt: skip
    assert (after >= before - 1e-6).all()


def test_mixed_hard_and_soft_rows_are_each_treated_as_alone():
    model, one, other = small(), hard(), soft()
    attack = Adversarial(model, 0.1, 3)
    both = Sample(torch.cat([one.x, other.x]), torch.cat([one.y, other.y]))
    together = attack(both, rng()).x
    apart = torch.cat([attack(one, rng()).x, attack(other, rng()).x])
    assert torch.allclose(together, apart, atol=1e-6)


def test_a_confident_network_is_attacked_all_the_same():
    """Where softmax is 1 in fp32 the gradient of cross-entropy is zero, the margin's is not."""
    model, sample = linear(2), hard(classes=2)
    with torch.no_grad():
        model[1].weight.mul_(1000)
        y = F.one_hot(model(sample.x).argmax(1), 2).float()
    x = Adversarial(model, 0.1, 1)(Sample(sample.x, y), rng()).x
    assert changed(sample, Sample(x, sample.y)).all()


def test_a_network_is_left_as_it_was(delicate, global_rng_untouched):
    model, check = delicate
    sample = hard(side=4)
    attack = with_probability(Adversarial(model, 0.1, 3), 0.5)
    global_rng_untouched(lambda: attack(sample, rng()))
    check()


def test_a_network_is_left_as_it_was_by_an_attack_that_fails(delicate):
    model, check = delicate
    with pytest.raises(ValueError, match="2"):
        Adversarial(model, 0.1, 3)(hard(classes=2, side=4), rng())
    check()


# ------------------------------------------------------------------ among other augmentations


def test_every_example_has_a_coin_of_its_own():
    model, sample = small(), hard(400)
    whole = Adversarial(model, 0.1, 1)(sample, rng()).x
    drawn = with_probability(Adversarial(model, 0.1, 1), 0.3)(sample, rng())
    hit = changed(sample, drawn)
    assert 0.2 < hit.float().mean() < 0.4
    assert torch.equal(drawn.x[~hit], sample.x[~hit])
    assert torch.equal(drawn.x[hit], whole[hit])


def test_composes_in_both_orders():
    model, sample = small(), hard()
    attack, flip = Adversarial(model, 0.1, 2), Flip()
    after = (attack @ flip)(sample, rng())
    flipped = flip(sample, rng())
    assert torch.equal(after.x, attack(flipped, rng()).x)
    before = (flip @ attack)(sample, rng())
    assert torch.equal(before.x, flip(attack(sample, rng()), rng()).x)
    mixed = (attack @ Mixup())(sample, rng())
    assert torch.equal(mixed.y, Mixup()(sample, rng()).y)


def test_is_named_by_its_settings_alone():
    one, other = (Adversarial(model, 0.1, 7, "l2") for model in (small(), linear()))
    assert repr(one) == repr(other)
    assert "0x" not in repr(one)
    for setting in ("eps=0.1", "steps=7", "norm='l2'", "start='zero'"):
        assert setting in repr(one)
    assert repr(one) != repr(Adversarial(small(), 0.1, 8, "l2"))
    assert repr(one) in repr(with_probability(one, 0.5) @ Flip())


# ------------------------------------------------------------------ training


def test_a_step_descends_the_loss_at_the_attacked_examples(tiny):
    """By hand: attack a copy in eval mode, then a step of plain SGD on a copy in train mode."""
    model = small(norm=True)
    attacked, trained = copy.deepcopy(model).eval(), copy.deepcopy(model).train()
    sample = to_sample(tiny.train_images, tiny.train_labels, 3)
    recipe = RECIPE | {"epochs": 1, "batch_size": 96, "momentum": 0.0, "weight_decay": 0.0}
    train(model, tiny, Adversarial(model, 0.2, 1), **recipe)
    x = sample.x.clone().requires_grad_()
    F.cross_entropy(attacked(x), tiny.train_labels, reduction="sum").backward()
    x_adv = (sample.x + 0.2 * x.grad.sign()).clamp(0, 1)
    F.cross_entropy(trained(x_adv), tiny.train_labels).backward()
    for found, start in zip(model.parameters(), trained.parameters(), strict=True):
        rate = 0.05 * 0.1  # where one cycle starts
        assert torch.allclose(found, start - rate * start.grad, atol=1e-6)


def test_makes_robust(tiny):
    """Bands of 150 levels on noise of 100: an eps of .2 loses what standard training found."""
    x, y = tiny.test_images.float() / 255, tiny.test_labels
    risks = []
    for eps in (0.0, 0.2):
        model = small()
        train(model, tiny, Adversarial(model, eps, 3), **RECIPE | {"epochs": 15})
        found = attacks.pgd(model, x, y, eps=0.2, steps=10, norm="linf")
        risks.append(attacks.risk(model, found, y))
    assert risks[1] < risks[0] - 0.1 or risks[1] == 0 < risks[0]


def two_classes(tiny):
    keep, test = tiny.train_labels < 2, tiny.test_labels < 2
    return ImageDataset(
        "two", ("top", "middle"), tiny.train_images[keep], tiny.train_labels[keep],
        tiny.test_images[test], tiny.test_labels[test],
    )  # fmt: skip


def test_of_a_linear_network_of_two_classes_one_step_is_as_good_as_many(tiny):
    """The sign of the gradient is the same everywhere: FGSM and PGD training agree."""
    models = []
    for steps in (1, 6):
        model = linear(2)
        train(model, two_classes(tiny), Adversarial(model, 0.1, steps), **RECIPE)
        models.append(model)
    for one, many in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(one, many, atol=1e-6)


@pytest.mark.parametrize("wrapped", [
    lambda a: a, lambda a: a @ Flip(), lambda a: with_probability(Flip() @ a, 0.5)],
    ids=["alone", "composed", "sometimes"])  # fmt: skip
def test_another_network_is_refused(wrapped, tiny, refuses, tmp_path):
    model, path = small(), tmp_path / "checkpoint"
    before = copy.deepcopy(model.state_dict())
    other = wrapped(Adversarial(small(), 0.1, 1))
    refuses(lambda: train(model, tiny, other, checkpoint=path, **RECIPE), "network", "training")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not path.exists()
    train(model, tiny, wrapped(Adversarial(model, 0.1, 1)), **RECIPE)


class Stop(Exception):
    pass


class Interrupted(Flip):
    """A flip that stops after so many calls; its text is the same however many."""

    def __init__(self, calls):
        self._calls = calls

    def __repr__(self):
        return "Interrupted()"

    def draw(self, sample, generator):
        if self._calls == 0:
            raise Stop
        self._calls -= 1
        return super().draw(sample, generator)


def test_resumes_to_the_same_weights(tiny, tmp_path):
    settings = RECIPE | {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}

    def trained(model, calls, **settings):
        attack = Adversarial(model, 0.1, 2, start="ball")
        train(model, tiny, attack @ Interrupted(calls), **settings)
        return model

    whole = trained(small(), -1, **RECIPE)
    with pytest.raises(Stop):
        trained(small(), 7, **settings)
    resumed = trained(small(seed=5), -1, **settings)
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("setting", "value"),
    [("eps", -0.1), ("eps", float("nan")), ("steps", 0), ("steps", 1.5), ("norm", "l1"),
     ("start", "anywhere"), ("step_size", -1)],
)  # fmt: skip
def test_settings_that_make_no_sense(setting, value, refuses):
    settings = {"eps": 0.1, "steps": 1, "norm": "linf"} | {setting: value}
    refuses(lambda: Adversarial(small(), **settings), setting, value)


def test_what_is_no_network(refuses):
    refuses(lambda: Adversarial(lambda x: x, 0.1, 1), "network")


def test_labels_of_another_number_of_classes(refuses):
    refuses(lambda: Adversarial(small(), 0.1, 1)(hard(classes=2), rng()), "3", "2")
