import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from lib import data, models, training
from lib.attacks.autoattack import apgd
from lib.attacks.gradient import bim, fgsm, pgd, risk
from lib.attacks.square import square
from lib.attacks.threat import predict
from lib.augmentation.algebra import Identity

NORMS, STARTS, LOSSES = ("l2", "linf"), ("zero", "ball", "sphere"), ("ce", "margin")
KEEPS = ("last", "best", "first_success")
SHAPE, D = (3, 2, 2), 12


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(classes, scale=1.0, bias=0.0, dtype=torch.float64):
    """logits = scale W x + bias e_0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, classes)).to(dtype)
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(classes, D, generator=rng(1)))
        model[1].bias.zero_()
        model[1].bias[0] = bias
    return model


def halving(x):
    """A linear two-class model whose plane has half of the images `x` on each side."""
    model = linear(2)
    with torch.no_grad():
        model[1].bias[0] = model(x).diff(dim=1).median()
    return model


def curved(classes=3, width=16, scale=3.0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, width), nn.Tanh(), nn.Linear(width, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale / 3 * torch.randn(parameter.shape, generator=rng(width)))
    return model.double()


class Constant(nn.Module):
    """Logits without any slope: what an attack returns is where it started."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :3]


def inside(s, dtype=torch.float64, seed=0):
    """Images well away from 0 and 1."""
    return 0.4 + 0.2 * torch.rand(s, *SHAPE, generator=rng(seed), dtype=dtype)


def length(delta, norm):
    return delta.double().flatten(1).norm(dim=1, p={"l2": 2, "linf": math.inf}[norm])


def margin(model, x, y):
    """z_y minus the other logit of a two-class model."""
    logits = model(x)
    return (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]


ATTACKS = {
    "fgsm": fgsm,
    "pgd ce": partial(pgd, steps=10, loss="ce"),
    "pgd margin": partial(pgd, steps=10, loss="margin"),
}


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_worst_case_of_a_linear_model(attack, norm, targeted):
    """The margin falls by eps ||w|| (L2) or eps ||w||_1 (Linf), w the difference of the rows."""
    model, x, y = linear(2), inside(8), torch.arange(8) % 2
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    eps = 0.25
    gain = eps * (w.norm() if norm == "l2" else w.abs().sum())
    x_adv = attack(model, x, y, eps=eps, norm=norm, targeted=targeted)
    expected = margin(model, x, y) + (gain if targeted else -gain)
    assert torch.allclose(margin(model, x_adv, y), expected, atol=1e-5)
    loss = F.cross_entropy(model(x_adv), y, reduction="none")
    assert torch.allclose(loss, F.softplus(-expected), atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [1, 20, 50, 100, 1000])
@pytest.mark.parametrize("norm", NORMS)
def test_step_goes_along_the_gradient_however_confident_the_model(norm, gap, loss):
    """The gradient of either loss is a positive multiple of sum_j q_j w_j - w_y, j != y.

    q is the softmax of the other logits. In fp32 a step must still have its full length, and its
    direction, where the true class's probability rounds to one.
    """
    model = linear(3, dtype=torch.float32)
    x, y = inside(5, torch.float32), torch.zeros(5, dtype=torch.int64)
    logits = model(x)
    with torch.no_grad():
        model[1].bias[0] = gap - (logits[:, 0] - logits[:, 1:].amax(1)).min()
    w, q = model[1].weight.detach(), model(x)[:, 1:].softmax(1).detach()
    gradient = q @ w[1:] - w[0]
    step = 0.01
    x_adv = pgd(model, x, y, eps=0.2, steps=1, step_size=step, norm=norm, loss=loss)
    delta = (x_adv - x).flatten(1)
    assert torch.allclose(length(delta, norm), torch.tensor(step).double(), rtol=1e-4)
    if norm == "l2":
        assert (F.cosine_similarity(delta, gradient) > 0.999999).all()
    else:
        clear = gradient.abs() > 0.05 * gradient.abs().amax(1, keepdim=True)
        assert torch.allclose(delta[clear], step * gradient[clear].sign(), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [20, 50, 100, 1000])
def test_worst_case_however_confident_the_model(gap, loss):
    model, x = linear(2, dtype=torch.float32), inside(6, torch.float32)
    y = torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias[0] = gap - margin(model, x, y).min()
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    delta = (pgd(model, x, y, eps=0.2, steps=10, loss=loss) - x).flatten(1)
    assert torch.allclose(delta @ w, 0.2 * w.norm(), rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_first_success_and_the_default_step(norm, targeted):
    """On a linear model the k-th step of 2.5 eps / steps takes k times the same off the margin."""
    model, x = linear(2), inside(8)
    logits = model(x)
    y = logits.argmin(1) if targeted else logits.argmax(1)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    slope = w.norm() if norm == "l2" else w.abs().sum()
    away = margin(model, x, y).detach().abs() / slope
    eps, steps = 0.9 * away.max().item(), 40
    step = 2.5 * eps / steps
    x_adv = pgd(
        model, x, y, eps=eps, steps=steps, norm=norm, keep="first_success", targeted=targeted
    )
    reached = torch.where(away < eps, (away / step).ceil() * step, eps).clamp(max=eps)
    assert (away < eps).any()
    assert (away > eps).any()
    assert torch.allclose(length(x_adv - x, norm), reached, atol=1e-6)
    assert torch.equal((model(x_adv).argmax(1) == y) == targeted, away < eps)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_kept_iterate(norm, loss):
    """`best` and `first_success` of a run that oscillates, put together from its every iterate."""
    model, x = curved(), inside(12)
    y, settings, steps = model(x).argmax(1), {"norm": norm, "loss": loss}, 12
    settings |= {"eps": 1.2, "step_size": 0.8} if norm == "l2" else {"eps": 0.35, "step_size": 0.2}
    iterates = [x] + [pgd(model, x, y, steps=k, **settings) for k in range(1, steps + 1)]

    def score(x):
        logits = model(x)
        others = logits.masked_fill(F.one_hot(y, 3).bool(), -math.inf).logsumexp(1)
        return others - logits.gather(1, y[:, None])[:, 0]  # the cross-entropy is its softplus

    scores = torch.stack([score(x) for x in iterates])
    failed = torch.stack([model(x).argmax(1) == y for x in iterates])
    best = scores.argmax(0)
    first = torch.where(failed.all(0), steps, failed.int().argmin(0))
    relapse = (scores.diff(dim=0) > 0) & (scores[1:] < scores.cummax(0).values[1:])
    assert relapse.any(), "the latest rise would do for the best"
    assert (best < steps).any(), "the last would do for the best"
    assert (first < steps).any(), "the last would do for the first success"
    for keep, index in (("best", best), ("first_success", first)):
        expected = torch.stack([iterates[k][i] for i, k in enumerate(index.tolist())])
        assert torch.allclose(pgd(model, x, y, steps=steps, keep=keep, **settings), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("begin", STARTS)
@pytest.mark.parametrize("restarts", [1, 3])
def test_first_success_of_what_is_wrong_already_is_the_image(norm, begin, restarts):
    model, x = curved(), inside(6)
    y = (model(x).argmax(1) + 1) % 3
    settings = {"eps": 0.3, "steps": 3, "norm": norm, "keep": "first_success", "start": begin}
    if begin != "zero":
        settings |= {"restarts": restarts, "generator": rng()}
    assert torch.equal(pgd(model, x, y, **settings), x)


def start(norm, kind, s=3000, eps=0.2):
    x, y = torch.full((s, *SHAPE), 0.5, dtype=torch.float64), torch.zeros(s, dtype=torch.int64)
    x_adv = pgd(Constant(), x, y, eps=eps, steps=1, norm=norm, start=kind, generator=rng())
    return ((x_adv - x) / eps).flatten(1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_target_that_is_the_label_already_leaves_the_image(norm):
    model, x = linear(3), inside(6)
    y = predict(model, x)
    common = {"eps": 0.3, "norm": norm, "steps": 5, "targeted": True}
    for x_adv in (
        pgd(model, x, y, keep="first_success", **common),
        apgd(model, x, y, **common),
        square(model, x, y, generator=rng(), **common),
    ):
        assert torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", NORMS)
def test_start_on_the_sphere(norm):
    delta = start(norm, "sphere")
    assert torch.allclose(length(delta, norm), torch.ones(3000).double())
    if norm == "l2":  # the square of a coordinate is Beta(1/2, (d - 1)/2)
        assert stats.kstest(delta[:, 0] ** 2, stats.beta(0.5, (D - 1) / 2).cdf).pvalue > 1e-4
    else:  # each of the 2 d faces has the same share
        places = delta.abs().argmax(1)
        faces = 2 * places + (delta.gather(1, places[:, None])[:, 0] > 0)
        assert stats.chisquare(faces.bincount(minlength=2 * D)).pvalue > 1e-4
    assert abs(stats.ttest_1samp(delta.flatten(), 0).statistic) < 4


@pytest.mark.parametrize("norm", NORMS)
def test_start_in_the_ball(norm):
    """Uniform in a ball of dimension d: the radius to the power of d is uniform."""
    delta = start(norm, "ball")
    assert stats.kstest(length(delta, norm) ** D, stats.uniform.cdf).pvalue > 1e-4
    if norm == "linf":
        assert stats.kstest(delta.flatten(), stats.uniform(-1, 2).cdf).pvalue > 1e-4
    assert abs(stats.ttest_1samp(delta.flatten(), 0).statistic) < 4


@pytest.mark.parametrize("steps", [1, 4])
def test_bim_takes_equal_steps_that_reach_the_corner_of_the_ball(steps):
    """On a linear model step k ends at k eps / steps times the sign of the gradient."""
    model, x, y = linear(2), inside(8), torch.arange(8) % 2
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    towards = torch.where(y[:, None] == 0, 1, -1) * w.sign()
    delta = (bim(model, x, y, eps=0.1, steps=steps) - x).flatten(1)
    assert torch.allclose(delta, 0.1 * towards, atol=1e-6)
    delta = (bim(model, x, y, eps=0.1, steps=steps, targeted=True) - x).flatten(1)
    assert torch.allclose(delta, -0.1 * towards, atol=1e-6)


class Counted(nn.Module):
    """The network, and how many images it was given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, x):
        self.images += len(x)
        return self.network(x)


@pytest.mark.parametrize("norm", NORMS)
def test_first_success_leaves_what_is_fooled_alone(norm):
    """Each image is given to the network once an iterate, up to the one that fools it."""
    x = inside(40)
    model = Counted(halving(x))
    w = (model.network[1].weight[1] - model.network[1].weight[0]).detach()
    y = predict(model, x)
    y[:5] = 1 - y[:5]
    away = margin(model, x, y).detach() / (w.norm() if norm == "l2" else w.abs().sum())
    eps, steps = 1.01 * away.median().item(), 20
    model.images = 0
    x_adv = pgd(model, x, y, eps=eps, steps=steps, norm=norm, keep="first_success")
    looks = ((away.clamp_min(0) / (2.5 * eps / steps)).ceil() + 1).where(away < eps, steps)
    assert model.images == looks.sum()
    assert torch.equal(x_adv[:5], x[:5])


@pytest.mark.parametrize("keep", KEEPS)
def test_restarts_keep_a_success_or_else_the_largest_loss(keep):
    model, x = curved(scale=6), torch.rand(60, *SHAPE, generator=rng()).double()
    y = predict(model, x)
    settings = {"eps": 0.4, "steps": 2, "step_size": 0.02, "start": "sphere", "keep": keep}
    stream = rng(3)
    one_by_one, todo = [], torch.arange(60)
    for _ in range(4):
        x_adv = x.clone()
        x_adv[todo] = pgd(model, x[todo], y[todo], generator=stream, **settings)
        one_by_one.append(x_adv)
        todo = todo[predict(model, x_adv[todo]) == y[todo]]
    risks = [risk(model, x_adv, y) for x_adv in one_by_one]
    x_adv = pgd(model, x, y, restarts=4, generator=rng(3), **settings)
    assert 0 < len(todo) < 60
    assert risk(model, x_adv, y) == (60 - len(todo)) / 60 > risks[0]
    losses = torch.stack([F.cross_entropy(model(x), y, reduction="none") for x in one_by_one])
    assert (losses.argmax(0)[todo] > 0).any()
    best = F.cross_entropy(model(x_adv), y, reduction="none")
    assert torch.allclose(best[todo], losses.amax(0)[todo])


# ------------------------------------------------------------------ peers and precision


@pytest.fixture(scope="module")
def digits():
    """A network trained on the digits, and 300 of their test images."""
    dataset = data.load("digits")
    model = models.initialise(models.build("small_cnn", 10, 1), 0)
    training.train(model, dataset, Identity(), epochs=6, seed=0, progress=False)
    return model, dataset.test_images[:300].float() / 255, dataset.test_labels[:300]


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.3), ("l2", 0.6), ("linf", 0.05), ("linf", 0.1)])
def test_risk_is_that_of_foolbox(digits, norm, eps):
    foolbox = pytest.importorskip("foolbox", reason="the peer, foolbox 3.3.4, is not installed")
    model, x, y = digits
    name = {"l2": "L2ProjectedGradientDescentAttack", "linf": "LinfProjectedGradientDescentAttack"}
    peer = getattr(foolbox.attacks, name[norm])(abs_stepsize=eps / 8, steps=20, random_start=False)
    network = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    _, theirs, _ = peer(network, x, y, epsilons=eps)
    model.requires_grad_(True)
    ours = pgd(model, x, y, eps=eps, steps=20, norm=norm, step_size=eps / 8)
    assert 0.05 < risk(model, theirs, y) < 0.95
    assert risk(model, ours, y) == pytest.approx(risk(model, theirs, y), abs=0.003)
    loss = [F.cross_entropy(model(x_adv), y).item() for x_adv in (ours, theirs)]
    assert loss[0] == pytest.approx(loss[1], rel=0.003)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.08)])
def test_a_bfloat16_network_is_attacked_as_well_as_its_fp32_twin(digits, norm, eps):
    """The fp32 twin has the same, rounded weights; the attack itself stays in fp32."""
    model, *_ = digits
    dataset = data.load("digits")
    x = torch.cat([dataset.test_images, dataset.train_images]).float() / 255
    y = torch.cat([dataset.test_labels, dataset.train_labels])
    half = copy.deepcopy(model).bfloat16()
    twin = copy.deepcopy(half).float()
    x_half, x_twin = (pgd(net, x, y, eps=eps, steps=10, norm=norm) for net in (half, twin))
    assert x_half.dtype == torch.float32
    expected = risk(twin, x_twin, y)
    assert expected > risk(twin, x, y) + 0.2
    for network in (twin, half):
        assert risk(network, x_half, y) == pytest.approx(expected, abs=0.003)


def test_first_success_is_four_times_as_fast_where_nearly_all_is_fooled(digits):
    model, x, y = digits
    counted = Counted(model)
    images, risks = {}, {}
    for keep in ("last", "first_success"):
        counted.images = 0
        x_adv = pgd(counted, x, y, eps=1.2, steps=100, keep=keep)
        images[keep], risks[keep] = counted.images, risk(model, x_adv, y)
    assert min(risks.values()) > 0.97
    assert images["first_success"] < images["last"] / 4


# ------------------------------------------------------------------ properties


@given(
    st.sampled_from(NORMS), st.sampled_from(STARTS), st.sampled_from(LOSSES),
    st.sampled_from(KEEPS), st.booleans(), st.floats(0.01, 3), st.integers(1, 6),
    st.sampled_from([torch.float32, torch.float64]), st.integers(0, 1000),
)  # fmt: skip
def test_stays_in_the_ball_and_in_the_box(
    norm, begin, loss, keep, targeted, eps, steps, dtype, seed
):
    model = curved().to(dtype)
    x = (1.6 * torch.rand(6, *SHAPE, generator=rng(seed), dtype=dtype) - 0.3).clamp(0, 1)
    kept = x.clone()
    x_adv = pgd(
        model, x, torch.arange(6) % 3, eps=eps, steps=steps, norm=norm, start=begin, loss=loss,
        keep=keep, targeted=targeted, generator=rng(seed),
    )  # fmt: skip
    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    assert not x_adv.requires_grad
    assert x_adv.grad_fn is None
    assert (length(x_adv.double() - x.double(), norm) <= eps * (1 + 1e-5)).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x, kept)
    assert not x.requires_grad


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("begin", STARTS)
@pytest.mark.parametrize("keep", KEEPS)
def test_eps_zero_is_the_image(norm, begin, keep):
    model, x, y = curved(), torch.rand(6, *SHAPE, generator=rng()).double(), torch.arange(6) % 3
    settings = {"eps": 0, "steps": 3, "norm": norm, "start": begin, "keep": keep}
    assert torch.equal(pgd(model, x, y, generator=rng(), **settings), x)
    assert torch.equal(fgsm(model, x, y, eps=0, norm=norm), x)


@pytest.mark.parametrize("norm", NORMS)
def test_no_slope_no_step(norm):
    x = inside(4)
    x_adv = pgd(Constant(), x, torch.arange(4) % 3, eps=0.2, steps=3, norm=norm)
    assert torch.allclose(x_adv, x, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_each_example_is_attacked_alone(norm, loss):
    """Even beside examples whose gradients are many orders of magnitude larger."""
    model, x, y = curved(scale=30), inside(6), torch.arange(6) % 3
    settings = {"eps": 0.3, "steps": 5, "norm": norm, "loss": loss}
    gradients = torch.autograd.functional.jacobian(
        lambda x: F.cross_entropy(model(x), y, reduction="none"), x
    ).flatten(2).norm(dim=2).diagonal()  # fmt: skip
    assert gradients.max() > 1e4 * gradients.min()
    together = pgd(model, x, y, **settings)
    for i in range(6):
        alone = pgd(model, x[i : i + 1], y[i : i + 1], **settings)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_more_steps_are_worse_for_the_model():
    """PGD beats FGSM on a curved model, and each raises the loss on average."""
    model, x = curved(), inside(64)
    y = model(x).argmax(1)
    one = fgsm(model, x, y, eps=0.2, norm="l2")
    many = pgd(model, x, y, eps=0.2, steps=20, keep="best")
    clean, one, many = (F.cross_entropy(model(x), y).item() for x in (x, one, many))
    assert clean < one < many


def test_generator_decides(global_rng_untouched):
    model, x, y = curved(), inside(4), torch.arange(4) % 3

    def attack(seed):
        return global_rng_untouched(
            lambda: pgd(model, x, y, eps=0.1, steps=2, start="ball", generator=rng(seed))
        )

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))


CALLS = {
    "bim": lambda *a: bim(*a, eps=0.1, steps=3),
    "first success, restarts": lambda *a: pgd(
        *a, eps=0.5, steps=3, start="ball", keep="first_success", restarts=2, generator=rng()
    ),
    "fgsm": lambda *a: fgsm(*a, eps=0.1),
    "pgd l2": lambda *a: pgd(*a, eps=0.5, steps=3),
    "pgd linf best": lambda *a: pgd(*a, eps=0.1, steps=3, norm="linf", keep="best"),
    "risk": lambda *a: torch.tensor(risk(*a)),
    "risk under attack": lambda *a: torch.tensor(risk(*a, CALLS["pgd l2"])),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_the_network_is_in_eval_mode_and_then_as_it_was(call, delicate):
    model, check = delicate
    evaluated = copy.deepcopy(model).eval()
    x, y = torch.rand(20, 1, 4, 4, generator=rng()), torch.arange(20) % 3
    assert torch.equal(call(model, x, y), call(evaluated, x, y))
    check()
    with torch.no_grad():
        assert torch.equal(call(model, x, y), call(evaluated, x, y))


def test_the_network_is_as_it_was_after_an_error(delicate, refuses):
    model, check = delicate
    x = torch.rand(2, 1, 4, 4)
    refuses(lambda: pgd(model, x, torch.tensor([0, 3]), eps=0.1, steps=2), 3)
    check()


@pytest.mark.parametrize("keep", KEEPS)
def test_a_batch_of_one(keep):
    model, x, y = curved(), inside(5), torch.arange(5) % 3
    settings = {"eps": 0.2, "steps": 4, "keep": keep}
    together = pgd(model, x, y, **settings)
    alone = torch.cat([pgd(model, x[i : i + 1], y[i : i + 1], **settings) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-6)


# ------------------------------------------------------------------ risk


def test_risk_counts():
    model, x = curved(), inside(10)
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    value = risk(model, x, y)
    assert isinstance(value, float)
    assert value == 0.3


def test_attack_is_given_the_model_the_images_and_the_labels():
    """With an attack that puts images of the other class in their place everything fails."""
    x, seen = inside(11), []
    model = halving(x)
    y = model(x).argmax(1)

    def attack(given, images, labels):
        assert given is model
        seen.append((images.clone(), labels.clone()))
        return torch.where((labels == 0)[:, None, None, None], x[y == 1][0], x[y == 0][0])

    assert risk(model, x, y) == 0
    assert risk(model, x, y, attack) == 1
    assert torch.equal(torch.cat([images for images, _ in seen]), x)
    assert torch.equal(torch.cat([labels for _, labels in seen]), y)


@pytest.mark.parametrize("eps", [0, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("norm", NORMS)
def test_risk_under_attack_of_a_linear_model(norm, eps):
    """The share of points nearer than eps to the plane, or on its wrong side."""
    x = inside(201)
    model = halving(x)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    y = model(x).argmax(1)
    y[:20] = 1 - y[:20]
    distance = margin(model, x, y).detach() / (w.norm() if norm == "l2" else w.abs().sum())
    expected = (distance < eps).double().mean().item()
    assert 0 < expected < 1
    value = risk(model, x, y, lambda *a: pgd(*a, eps=eps, steps=10, norm=norm))
    assert value == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------ what is refused

CHOICES = {"norm": NORMS, "start": STARTS, "loss": LOSSES, "keep": KEEPS}


@pytest.fixture
def ask(refuses):
    def check(*said, x=None, y=None, attack=pgd, **settings):
        x = inside(3, torch.float32) if x is None else x
        y = torch.arange(3) if y is None else y
        settings = {"eps": 0.1} | ({"steps": 2} if attack is pgd else {}) | settings
        refuses(lambda: attack(linear(3, dtype=torch.float32), x, y, **settings), *said)

    return check


@pytest.mark.parametrize("attack", [pgd, fgsm])
@pytest.mark.parametrize("eps", [-0.1, math.nan, "0.1", None])
def test_bad_eps(attack, eps, ask):
    ask("eps", repr(eps), attack=attack, eps=eps)


@pytest.mark.parametrize("steps", [0, -1])
def test_bad_steps(steps, ask):
    ask("steps", steps, steps=steps)


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choice(name, ask):
    ask("lp", *CHOICES[name], **{name: "lp"})


def test_unknown_norm_of_fgsm(ask):
    ask("lp", *NORMS, attack=fgsm, norm="lp")


def just_risk(model, x, y, **_):
    return risk(model, x, y)


@pytest.mark.parametrize("attack", [pgd, fgsm, just_risk])
@pytest.mark.parametrize(
    "x",
    [
        torch.full((3, *SHAPE), 1.1),
        torch.full((3, *SHAPE), -0.1),
        torch.full((3, *SHAPE), math.nan),
        torch.full((3, D), 0.5),
        torch.full((3, 1, *SHAPE), 0.5),
    ],
    ids=["above 1", "below 0", "NaN", "2 dimensions", "5 dimensions"],
)
def test_bad_images(attack, x, ask):
    ask(attack=attack, x=x)


@pytest.mark.parametrize("attack", [pgd, fgsm, just_risk])
@pytest.mark.parametrize(
    "y",
    [
        torch.tensor([0, 1, 3]),
        torch.tensor([0, 1, -1]),
        torch.tensor([0.0, 1.0, 2.0]),
        torch.eye(3),
        torch.tensor([0, 1]),
    ],
    ids=["too large", "negative", "float", "rows", "too few"],
)
def test_bad_labels(attack, y, ask):
    ask(attack=attack, y=y)


@pytest.mark.parametrize("begin", ["ball", "sphere"])
def test_a_random_start_needs_a_generator(begin, ask):
    ask("generator", begin, start=begin)


def test_restarts_of_the_same_run(ask):
    ask("restarts", "zero", restarts=2)
    ask("restarts", "0", restarts=0)


class Returns(nn.Module):
    """What a linear network gives, put through a function."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = linear(3, dtype=torch.float32), function

    def forward(self, x):
        return self.function(self.linear(x))


@pytest.mark.parametrize(
    ("said", "function"),
    [
        ("probabilities", lambda z: z.softmax(1)),
        ("probabilities", lambda z: z.bfloat16().softmax(1)),
        ("finite", lambda z: z * math.nan),
        ("finite", lambda z: torch.where(z == z.max(), math.inf, z)),
        ("2 classes", lambda z: z[:, :1]),
        ("2 classes", lambda z: z[:, :, None]),
        ("gradient", lambda z: z.detach()),
        ("gradients", lambda z: z + (z - z).abs().sqrt()),  # finite, with a slope of NaN
    ],
)
@pytest.mark.parametrize("keep", KEEPS)
def test_a_network_whose_outputs_are_no_logits(said, function, keep, refuses):
    x, y = inside(3, torch.float32), torch.zeros(3, dtype=torch.int64)
    model = Returns(function)
    if said == "gradients":
        y = model(x).argmax(1)
    refuses(lambda: pgd(model, x, y, eps=0.1, steps=2, keep=keep), said)
    if said == "finite":
        refuses(lambda: risk(model, x, y), said)
