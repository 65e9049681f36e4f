"""What every attack does with the networks, images and numbers that it is given."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lib import runtime
from lib.attacks import (
    apgd,
    bim,
    boundary_distance,
    fgsm,
    logits_of,
    masking,
    pgd,
    predict,
    risk,
    square,
    worst_of,
)
from lib.attacks.threat import NoGradient, forward, steepest

SHAPE, D = (3, 4, 4), 48


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def network(classes=4, scale=1.0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 9), nn.Tanh(), nn.Linear(9, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng(classes)) / 2)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
        for parameter in model[3].parameters():
            parameter *= scale
    return model


def images(s=6, dtype=torch.float32):
    return torch.rand(s, *SHAPE, generator=rng(), dtype=dtype)


ATTACKS = {
    "fgsm": partial(fgsm, eps=0.1),
    "bim": partial(bim, eps=0.1, steps=3),
    "pgd": partial(pgd, eps=0.5, steps=3),
    "pgd linf": partial(pgd, eps=0.1, steps=3, norm="linf"),
    "pgd best": partial(pgd, eps=0.5, steps=3, keep="best"),
    "pgd first": lambda *a, **k: pgd(
        *a, **{"eps": 0.5, "steps": 3, "start": "ball", "keep": "first_success", "restarts": 2,
               "generator": rng()} | k),
    "apgd": partial(apgd, eps=0.5, norm="l2", steps=4),
    "apgd dlr": partial(apgd, eps=0.5, norm="l2", steps=4, loss="dlr"),
    "apgd targets": partial(apgd, eps=0.5, norm="l2", steps=4, loss="dlr", targets=2),
    "square": lambda *a, **k: square(
        *a, **{"eps": 0.5, "norm": "l2", "steps": 9, "generator": rng()} | k),
    "square linf": lambda *a, **k: square(
        *a, **{"eps": 0.1, "norm": "linf", "steps": 9, "generator": rng()} | k),
    "worst of": worst_of(partial(fgsm, eps=0.1), partial(pgd, eps=0.5, steps=2)),
    "distance": lambda *a, **k: boundary_distance(*a, **{"steps": 4, "images": True} | k)[1],
    "distance linf": lambda *a, **k: boundary_distance(
        *a, **{"steps": 4, "norm": "linf", "images": True} | k)[1],
}  # fmt: skip
NUMBERS = {
    "risk": risk,
    "risk under attack": partial(risk, attack=ATTACKS["pgd"]),
    "logits": lambda model, x, y: logits_of(model, x),
    "predict": lambda model, x, y: predict(model, x),
    "distance alone": partial(boundary_distance, steps=3),
    "no gradient": masking.no_gradient,
    "random outputs": lambda model, x, y: masking.random_outputs(model, x),
    "masked": lambda *a: [s.share for s in masking.masked(*a, steps=3)],
    "missed": lambda model, x, y: [
        sign.share
        for sign in masking.missed(model, x, y, x, eps=0.5, steps=3, queries=5, restarts=2,
                                   generator=rng(), transferred=x)
    ],
}  # fmt: skip
GRADIENTS = [name for name in ATTACKS if not name.startswith("square")]
everything = pytest.mark.parametrize("call", [*ATTACKS.values(), *NUMBERS.values()],
                                     ids=[*ATTACKS, *NUMBERS])  # fmt: skip


def same(one, other):
    if torch.is_tensor(one):
        return torch.equal(one, other)
    return one == other


def asked(call, model=None, x=None, y=None):
    model = network() if model is None else model
    x = images() if x is None else x
    y = predict(network(), x.float()) if y is None else y
    return call(model, x, y)


# ------------------------------------------------------------------ networks


class InPlace(nn.Module):
    """Normalises the images it is given where they lie."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.sub_(0.5).div_(0.25))


class Twin(InPlace):
    def forward(self, x):
        return self.network((x - 0.5) / 0.25)


@everything
def test_a_network_that_changes_its_input_in_place(call):
    model, twin, x = InPlace(network()), Twin(network()), images()
    kept, y = x.clone(), predict(twin, x)
    found = asked(call, model, x, y)
    assert torch.equal(x, kept)
    assert same(found, asked(call, twin, kept, y))


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.network, self.function = network(), function

    def forward(self, x):
        return self.function(self.network(x))


@everything
@pytest.mark.parametrize(
    ("said", "function"),
    [
        ("tuple", lambda z: (z, z)),
        ("dict", lambda z: {"logits": z}),
        ("NoneType", lambda z: None),
        ("int64", lambda z: z.argmax(1)),
        ("int64", lambda z: nn.functional.one_hot(z.argmax(1))),
        ("[6]", lambda z: z[:, 0]),
        ("[6, 4, 1]", lambda z: z[:, :, None]),
        ("[1, 4]", lambda z: z.mean(0, keepdim=True)),
    ],
)
def test_outputs_that_are_no_logits(call, said, function, refuses):
    y = torch.zeros(6, dtype=torch.int64)
    refuses(lambda: asked(call, Returns(function), y=y), "logits [s, k]", said)


@everything
def test_a_plain_function_is_refused(call, refuses):
    """What it calls could not be put into eval mode."""
    model, y = network(), torch.zeros(6, dtype=torch.int64)
    for function in (lambda x: model(x), model.forward, "small_cnn", None):
        with pytest.raises(ValueError, match="torch.nn.Module") as caught:
            call(function, images(), y)
        assert "\n" not in str(caught.value)


@everything
def test_inference_mode_and_no_grad_change_nothing(call):
    """Images and labels made in it are none that autograd takes as they are."""
    expected, model = asked(call), network()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x = images()
            y = predict(model, x)
            assert torch.is_inference_mode_enabled() == x.is_inference()
            assert same(call(model, x, y), expected)
            assert torch.is_inference_mode_enabled() == x.is_inference()
            assert not torch.is_grad_enabled()
        assert same(call(model, x, y), expected)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_network_made_in_inference_mode_is_refused(name, refuses):
    with torch.inference_mode():
        model = network()
    refuses(lambda: asked(ATTACKS[name], model), "inference_mode")
    assert asked(ATTACKS["square"], model).shape == images().shape


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_network_without_a_gradient_is_told_so(name, refuses):
    """Detached, or a constant: and Square needs none."""
    learnt = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))
    for function in (lambda z: z.detach(), lambda z: learnt.expand(len(z), 4)):
        model = Returns(function)
        y = predict(model, images())
        refuses(lambda m=model, y=y: asked(ATTACKS[name], m, y=y), "square", error=NoGradient)
        assert torch.isfinite(asked(ATTACKS["square"], model, y=y)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1, 1e12])
@pytest.mark.parametrize("name", [n for n in ATTACKS if "dlr" not in n and "targets" not in n])
def test_the_scale_of_the_logits_changes_nothing(name, scale):
    """A power of ten but for rounding; of two classes, whose margin is a difference of logits."""
    x = images(dtype=torch.float64)
    one, other = network(2).double(), network(2, scale).double()
    y = predict(one, x)
    found = [ATTACKS[name](model, x, y) for model in (one, other)]
    assert torch.allclose(*found, atol=1e-6)
    assert not torch.equal(found[0], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_direction_has_length_one_however_short_the_gradient(norm, dtype):
    """Down to the smallest normal number of its type, and zero has none."""
    for size in (torch.finfo(dtype).tiny, 1e-30, 1.0, 1e30, torch.finfo(dtype).max):
        gradient = size * torch.tensor([[3.0, -4], [0, 0], [0, 1]], dtype=dtype).div(4)
        found = steepest(gradient[:, None, None], norm).flatten(1).double()
        expected = torch.tensor([[0.6, -0.8], [0, 0], [0, 1]]).double()
        assert torch.allclose(found, expected if norm == "l2" else expected.sign())


def test_logits_of_a_double_network_stay_double():
    """Beside an offset of 1e9 fp32 knows nothing of what the network says."""
    plain, x = network(2).double(), images(dtype=torch.float64)
    y = predict(plain, x)
    shifted = nn.Sequential(plain, nn.Identity())
    shifted.forward = lambda x: plain(x) + 1e9
    for call in (partial(pgd, keep="best"), partial(pgd, keep="first_success")):
        found = [call(model, x, y, eps=0.4, steps=5) for model in (plain, shifted)]
        assert torch.allclose(*found, atol=1e-6)
    found = [boundary_distance(model, x, y, steps=20) for model in (plain, shifted)]
    assert torch.allclose(*found, rtol=1e-3)


# ------------------------------------------------------------------ images and numbers


@everything
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_refused(call, dtype, refuses):
    """Steps of an attack are below their rounding."""
    refuses(lambda: asked(call, x=images().to(dtype)), "float32", dtype)
    half = network().to(dtype)
    refuses(lambda: asked(call, half, images().to(dtype)), "float32", dtype)


@pytest.mark.parametrize("name", [*ATTACKS, "logits", "predict", "distance alone"])
def test_an_attack_on_no_images_gives_none(name):
    """Even of a network that can't look at none."""

    class Reshaping(Twin):
        def forward(self, x):
            return self.network(x.reshape(len(x), -1, 2).flatten(1))

    for model in (network(), Reshaping(network())):
        found = (ATTACKS | NUMBERS)[name](model, images(0), torch.zeros(0, dtype=torch.int64))
        assert len(found) == 0
        assert name not in ATTACKS or found.shape[1:] == SHAPE


@pytest.mark.parametrize("name", ["risk", "risk under attack", "no gradient", "random outputs",
                                  "masked", "missed"])  # fmt: skip
def test_a_share_of_no_images_is_refused(name, refuses):
    y = torch.zeros(0, dtype=torch.int64)
    refuses(lambda: NUMBERS[name](network(), images(0), y), "no images")


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("fgsm", "worst of")])
def test_steps_are_integers_of_any_kind(name, refuses):
    call = ATTACKS[name]
    expected = asked(partial(call, steps=3))
    for steps in (np.int64(3), np.int32(3), np.uint8(3)):
        assert same(asked(partial(call, steps=steps)), expected)
    for steps in (3.0, np.float64(3), True, "3", None, np.array([3])):
        refuses(lambda s=steps: asked(partial(call, steps=s)), "steps", repr(steps))


def test_eps_is_a_number_of_any_kind():
    expected = asked(partial(pgd, eps=0.5, steps=3))
    for eps in (np.float64(0.5), np.float32(0.5)):
        assert same(asked(partial(pgd, eps=eps, steps=np.int64(3))), expected)


def test_counts_of_any_kind_and_batches_of_any_size(refuses):
    x = images()
    y = predict(network(), x)
    for size in (1, np.int64(4), 1000):
        assert risk(network(), x, y, batch_size=size) == 0
        assert torch.equal(predict(network(), x, batch_size=size), y)
    for size in (0, -1, 2.0):
        refuses(lambda s=size: risk(network(), x, y, batch_size=s), "batch_size")
        refuses(lambda s=size: predict(network(), x, batch_size=s), "batch_size")


@pytest.mark.parametrize(
    ("attack", "said"),
    [(lambda m, x, y: None, "NoneType"), (lambda m, x, y: x + 1, "[0, 1]"),
     (lambda m, x, y: x[:2], "[2, 3, 4, 4]"), (lambda m, x, y: x * math.nan, "[0, 1]")],
)  # fmt: skip
def test_an_attack_that_gives_no_images_has_no_risk(attack, said, refuses):
    x = images()
    y = predict(network(), x)
    refuses(lambda: risk(network(), x, y, attack), said)
    refuses(lambda: worst_of(attack)(network(), x, y), said)


def test_the_forward_of_a_network_gets_images_of_its_own():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)

    x = images()
    forward(Watching(), x)
    runtime.forward(Watching(), x)
    assert seen[0].data_ptr() != x.data_ptr()
    assert seen[1] is x, "a training step copies nothing"
