import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib import data, models, training
from lib.attacks.autoattack import _halve, apgd, checkpoints, worst_of
from lib.attacks.gradient import fgsm, pgd, risk
from lib.attacks.square import square
from lib.attacks.threat import predict
from lib.augmentation.algebra import Identity

NORMS = ("l2", "linf")
SHAPE, D = (3, 4, 4), 48


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def network(classes, width=0):
    """A linear network, or with `width` hidden tanh units."""
    sizes = [D, width, classes] if width else [D, classes]
    layers = [nn.Flatten()]
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng(classes)) / 2)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def inside(s, seed=0):
    return 0.4 + 0.2 * torch.rand(s, *SHAPE, generator=rng(seed), dtype=torch.float64)


def length(delta, norm):
    return delta.double().flatten(1).norm(dim=1, p={"l2": 2, "linf": math.inf}[norm])


@pytest.fixture(scope="module")
def digits():
    dataset = data.load("digits")
    model = models.initialise(models.build("small_cnn", 10, 1), 0)
    training.train(model, dataset, Identity(), epochs=6, seed=0, progress=False)
    return model, dataset.test_images[:200].float() / 255, dataset.test_labels[:200]


ATTACKS = {
    "apgd ce": partial(apgd, steps=12),
    "apgd dlr": partial(apgd, steps=12, loss="dlr"),
    "apgd targets": partial(apgd, steps=6, loss="dlr", targets=3),
    "apgd restarts": lambda *a, **k: apgd(*a, steps=6, restarts=2, generator=rng(), **k),
    "square": lambda *a, **k: square(*a, steps=30, generator=rng(), **k),
}

# ------------------------------------------------------------------ all of them


@given(
    st.sampled_from(sorted(ATTACKS)), st.sampled_from(NORMS), st.floats(0.01, 2),
    st.sampled_from([torch.float32, torch.float64]), st.integers(0, 1000),
)  # fmt: skip
def test_stays_in_the_ball_and_in_the_box(name, norm, eps, dtype, seed):
    model = network(4, 10).to(dtype)
    x = (1.6 * torch.rand(6, *SHAPE, generator=rng(seed), dtype=dtype) - 0.3).clamp(0, 1)
    y = predict(model, x)
    y[0] = (y[0] + 1) % 4
    before = x.clone()
    x_adv = ATTACKS[name](model, x, y, eps=eps, norm=norm)
    assert torch.equal(x, before)
    assert torch.equal(x_adv[0], x[0]), "what is wrong already is left as it is"
    assert x_adv.dtype == dtype
    assert not x_adv.requires_grad
    assert (length(x_adv.double() - x.double(), norm) <= eps * (1 + 1e-5)).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_eps_zero_is_the_image(name, norm):
    model, x = network(4, 10), inside(5)
    x_adv = ATTACKS[name](model, x, predict(model, x), eps=0, norm=norm)
    assert torch.allclose(x_adv, x, atol=1e-9)
    assert risk(model, x_adv, predict(model, x)) == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_fools_a_curved_network_also_one_image_at_a_time(name, norm):
    model, x = network(4, 10), inside(12)
    y = predict(model, x)
    attack = partial(ATTACKS[name], eps={"l2": 0.6, "linf": 0.15}[norm], norm=norm)
    alone = [predict(model, attack(model, x[i : i + 1], y[i : i + 1])) for i in range(12)]
    assert risk(model, x, y, attack) > 0.3
    assert (torch.cat(alone) != y).double().mean() > 0.3


@pytest.mark.parametrize("name", ["apgd ce", "apgd dlr", "square"])
@pytest.mark.parametrize("norm", NORMS)
def test_targeted(name, norm):
    model, x = network(4, 10), inside(12)
    goal = model(x).topk(2).indices[:, 1]
    attack = partial(ATTACKS[name], eps={"l2": 2.0, "linf": 0.4}[norm], norm=norm, targeted=True)
    x_adv = attack(model, x, goal)
    assert (predict(model, x_adv) == goal).double().mean() > 0.5
    reached = attack(model, x_adv, predict(model, x_adv))
    assert torch.equal(reached, x_adv)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_network_is_as_it_was(name, delicate):
    model, check = delicate
    x, y = torch.rand(20, 1, 4, 4, generator=rng()), torch.arange(20) % 3
    if name != "apgd targets":  # it needs four classes
        ATTACKS[name](model, x, y, eps=0.3, norm="l2")
        check()


# ------------------------------------------------------------------ Auto-PGD


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 4])
def test_apgd_finds_the_worst_case_of_a_linear_model(classes, norm):
    """Of two classes the loss at eps ||w||; of more it is at most that of many random points."""
    model, x = network(classes), inside(8)
    y = predict(model, x)
    z, w = model(x).detach(), model[1].weight.detach()
    eps = 1e-4  # too little to fool any of them
    x_adv = apgd(model, x, y, eps=eps, norm=norm, steps=30)
    loss = F.cross_entropy(model(x_adv), y, reduction="none")
    if classes == 2:
        lead = z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None])
        gain = eps * (w[1] - w[0]).norm(p={"l2": 2, "linf": 1}[norm])
        assert torch.allclose(loss, F.softplus(gain - lead[:, 0]), rtol=1e-4)
    else:
        around = torch.randn(2000, 1, *SHAPE, generator=rng()).double()
        around = (
            around.sign()
            if norm == "linf"
            else around / around.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        )
        random = torch.stack(
            [F.cross_entropy(model(x + eps * delta), y, reduction="none") for delta in around]
        )
        assert (loss >= random.amax(0)).all()
    assert risk(model, x_adv, y) == 0


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_is_as_strong_on_huge_logits(norm, loss):
    """The boundary is the same whatever the scale, and as good as reached."""
    x = inside(20)
    risks = []
    for scale in (1, 1e4):
        model = network(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= scale
        y = predict(model, x)
        attack = partial(
            apgd, eps={"l2": 0.05, "linf": 0.008}[norm], norm=norm, steps=20, loss=loss
        )
        risks.append(risk(model, x, y, attack))
    assert 0.2 < risks[0] < 1
    assert risks[1] >= risks[0] - 0.051  # one image of 20


def test_checkpoints_of_the_paper():
    """p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99, then beyond the end."""
    assert checkpoints(100)[:9] == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_the_step_is_halved_where_the_last_period_was_poor():
    """Of a period of 20: 14 rises are too few, 15 are enough, unless nothing new came of them.

    The third and the fourth have their best loss from before; the fourth had its step halved
    at the last checkpoint, and so gets another period.
    """
    image, best = torch.rand(2, 4, 1, 2, 2, generator=rng())
    state = {
        "x": image, "gradient": -image, "loss": torch.zeros(4),
        "best_x": best, "best_gradient": -best, "best_loss": torch.ones(4),
        "best_at_mark": torch.tensor([0.5, 0.5, 1, 1]), "rises": torch.tensor([14.0, 15, 15, 15]),
        "halved": torch.tensor([False, False, False, True]), "step": torch.ones(4, 1, 1, 1),
    }  # fmt: skip
    after = _halve(state, 20)
    poor = torch.tensor([True, False, True, False])
    assert torch.equal(after["halved"], poor)
    assert torch.equal(after["step"].flatten(), torch.where(poor, 0.5, 1))
    assert torch.equal(after["x"], torch.where(poor.view(4, 1, 1, 1), best, image))
    assert torch.equal(after["gradient"], -after["x"])
    assert torch.equal(after["loss"], poor.float())
    assert (after["rises"] == 0).all()
    assert torch.equal(after["best_at_mark"], torch.ones(4))


@pytest.mark.parametrize(("norm", "radii"), [("l2", (0.3, 0.5, 0.8)), ("linf", (0.05, 0.1, 0.15))])
def test_apgd_is_at_least_as_strong_as_pgd(digits, norm, radii):
    """In risk, summed over radii; where neither fools, in the loss within 1 %."""
    model, x, y = digits
    for steps in (10, 40):
        risks, losses = [], []
        for attack in (pgd, apgd):
            images = [attack(model, x, y, eps=eps, steps=steps, norm=norm) for eps in radii]
            risks.append([risk(model, x_adv, y) for x_adv in images])
            losses.append(F.cross_entropy(model(images[0]), y, reduction="none"))
        robust = (losses[0] < math.log(2)) & (losses[1] < math.log(2))
        assert robust.any()
        assert sum(risks[1]) >= sum(risks[0])
        assert losses[1][robust].mean() >= 0.99 * losses[0][robust].mean()


def test_targets_find_what_the_nearest_rival_hides(digits):
    model, x, y = digits
    attack = partial(apgd, eps=0.6, norm="l2", steps=30, loss="dlr")
    one, nine = (risk(model, x, y, partial(attack, targets=n)) for n in (1, 9))
    assert nine > one
    assert nine >= risk(model, x, y, attack)


def test_losses_and_targets_that_do_not_fit(refuses):
    x, y = inside(3), torch.zeros(3, dtype=torch.int64)
    attack = partial(apgd, eps=0.1, norm="l2", steps=3)
    refuses(lambda: attack(network(2), x, y, loss="dlr"), "3 classes")
    refuses(lambda: attack(network(3), x, y, loss="dlr", targets=2), "4 classes")
    refuses(lambda: attack(network(4), x, y, loss="dlr", targets=4), "targets", 4)
    refuses(lambda: attack(network(4), x, y, loss="dlr", targets=0), "targets", 0)
    refuses(lambda: attack(network(4), x, y, targets=2), "targets", "dlr")
    refuses(lambda: attack(network(4), x, y, loss="dlr", targets=2, targeted=True), "targets")
    refuses(lambda: attack(network(4), x, y, loss="hinge"), "ce", "dlr")
    refuses(lambda: attack(network(4), x, y, restarts=2), "generator")


@pytest.mark.parametrize("name", ATTACKS)
def test_what_else_is_refused(name, refuses):
    attack, x, y = ATTACKS[name], inside(3), torch.arange(3)
    refuses(lambda: attack(network(4), x, y, eps=-1, norm="l2"), "eps")
    refuses(lambda: attack(network(4), x, y, eps=0.1, norm="l1"), "l1", *NORMS)
    refuses(lambda: attack(network(4), x + 1, y, eps=0.1, norm="l2"), "[0, 1]")
    refuses(lambda: attack(network(4), x, y + 2, eps=0.1, norm="l2"), "labels")
    refuses(lambda: attack(network(4), x, y[:2], eps=0.1, norm="l2"), "labels")
    probable = nn.Sequential(network(4), nn.Softmax(1))
    refuses(lambda: attack(probable, x, y, eps=0.1, norm="l2"), "probabilities")


# ------------------------------------------------------------------ the worst of several


def test_worst_of_attacks_the_survivors_only():
    model, x = network(4, 10), inside(30)
    y = predict(model, x)
    y[:4] = (y[:4] + 1) % 4
    seen = []

    def watched(attack):
        def call(model, x, y):
            seen.append(len(x))
            return attack(model, x, y)

        return call

    first = partial(fgsm, eps=0.01)
    second = partial(pgd, eps=0.3, steps=10)
    x_adv = worst_of(watched(first), watched(second))(model, x, y)
    left = predict(model, first(model, x, y)) == y
    left[:4] = False
    assert seen == [26, left.sum()]
    assert 0 < left.sum() < 26
    assert torch.equal(x_adv[:4], x[:4])
    expected = left & (predict(model, second(model, x, y)) == y)
    assert torch.equal(predict(model, x_adv) == y, expected)


def test_worst_of_is_never_better_for_the_model_than_its_parts(digits):
    model, x, y = digits
    parts = [
        partial(pgd, eps=0.5, steps=10),
        partial(apgd, eps=0.5, steps=10, norm="l2", loss="dlr"),
        partial(square, eps=0.5, steps=50, norm="l2", generator=rng()),
    ]
    together = risk(model, x, y, worst_of(*parts))
    assert all(together >= risk(model, x, y, part) for part in parts[:2])
    assert 0.1 < together < 1


def test_worst_of_nothing(refuses):
    refuses(worst_of, "attack")


# ------------------------------------------------------------------ Square


class Masked(nn.Module):
    """Its gradient is zero: the images are rounded to steps of 1/50."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((50 * x).round() / 50)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.8), ("linf", 0.1)])
def test_square_needs_no_gradient(digits, norm, eps):
    model, x, y = digits
    masked = Masked(model)
    clean = risk(masked, x, y)
    assert risk(masked, x, y, partial(pgd, eps=eps, steps=10, norm=norm)) == clean
    assert risk(masked, x, y, partial(apgd, eps=eps, steps=10, norm=norm)) == clean
    found = partial(square, eps=eps, steps=300, norm=norm, generator=rng())
    assert risk(masked, x, y, found) > clean + 0.2


@pytest.mark.parametrize("norm", NORMS)
def test_square_gets_better_with_queries_and_its_generator_decides(
    digits, norm, global_rng_untouched
):
    model, x, y = digits
    eps = {"l2": 0.6, "linf": 0.1}[norm]

    def attack(steps, seed=0):
        return global_rng_untouched(
            lambda: square(model, x, y, eps=eps, steps=steps, norm=norm, generator=rng(seed))
        )

    assert risk(model, attack(2), y) < risk(model, attack(20), y) < risk(model, attack(200), y)
    assert torch.equal(attack(10), attack(10))
    assert not torch.equal(attack(10), attack(10, seed=1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 7), (9, 4)])
def test_square_of_any_image_size(norm, size):
    """On a network of the image's mean it goes a good part of the way; L2's halves cancel there."""
    x = torch.full((4, 2, *size), 0.5).double()

    class Mean(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([10 - mean, mean], 1)

    y = torch.zeros(4, dtype=torch.int64)
    x_adv = square(Mean(), x, y, eps=0.1, steps=400, norm=norm, generator=rng())
    d = x[0].numel()
    most = 0.1 if norm == "linf" else 0.1 / d**0.5  # Cauchy-Schwarz: the mean's largest rise
    rise = (x_adv - x).mean((1, 2, 3))
    assert (rise <= most * (1 + 1e-6)).all()
    assert (rise >= {"l2": 0.4, "linf": 0.9}[norm] * most).all()
