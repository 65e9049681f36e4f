import copy
import math

import pytest
import torch
from torch._dynamo.utils import counters

from lib import attacks, runtime, training
from lib.augmentation.algebra import Identity, with_probability
from lib.augmentation.mixup import Mixup
from lib.augmentation.transforms import Crop, Flip
from lib.data import ImageDataset
from lib.models import build, initialise
from lib.runtime import forward, memory_for, warm_up
from lib.stress import prediction_change_stress

SHAPE, SIZES = (3, 8, 8), {True: 24, False: 20}


def network(precision, seed=0, sizes=SIZES):
    model = initialise(build("small_cnn", 3, 3, precision), seed)
    model.compiled = sizes
    return model


def images(n, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def graphs():
    """How many graphs torch has compiled in this process."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def compiled(request):
    """A precision whose networks are compiled already."""
    warm_up(network(request.param), SHAPE)
    return request.param


@pytest.fixture(scope="module")
def colours():
    """Three classes of images that are brighter in one channel."""
    rng = torch.Generator().manual_seed(0)

    def draw(n):
        labels = torch.arange(n) % 3
        found = torch.randint(0, 140, (n, *SHAPE), generator=rng)
        found[torch.arange(n), labels] += 100
        return found.byte(), labels

    return ImageDataset("colours", ("red", "green", "blue"), *draw(96), *draw(48))


# Precision


def test_bf16_rounds_the_body_and_nothing_else():
    exact, mixed = (build("small_cnn", 3, 3, precision) for precision in ("fp32", "bf16"))
    mixed.load_state_dict(exact.state_dict())
    x = images(50)
    want, got = exact(x), mixed(x)
    assert got.dtype == torch.float32
    assert not torch.equal(want, got)
    # bf16 has eight bits of a mantissa: a few roundings of a part in 256.
    assert (want - got).abs().max() < 0.02 * want.abs().max()
    assert all(value.dtype == torch.float32 for value in mixed.state_dict().values())
    # The last layer is exact on what the body gives.
    features = mixed.features(x)
    assert torch.equal(features, features.bfloat16().float())
    assert torch.equal(got, mixed.head(features))
    assert not torch.equal(got, got.bfloat16().float())


def test_a_double_network_stays_double_whatever_its_precision():
    model = copy.deepcopy(build("small_cnn", 3, 3, "bf16")).double()
    exact = copy.deepcopy(model)
    exact.precision = "fp32"
    x = images(5).double()
    assert model(x).dtype == torch.float64
    assert torch.equal(model(x), exact(x))


@pytest.mark.parametrize("precision", ["fp16", "", None])
def test_an_unknown_precision_is_refused(refuses, precision):
    refuses(lambda: build("small_cnn", 3, 3, precision), "fp32", "bf16")


def test_bf16_learns_what_fp32_learns(colours):
    errors = {}
    for precision in ("fp32", "bf16"):
        model = initialise(build("small_cnn", 3, 3, precision), 0)
        recipe = {"epochs": 6, "seed": 0, "batch_size": 24, "learning_rate": 0.05}
        history = training.train(model, colours, Identity(), progress=False, **recipe)
        errors[precision] = history[-1]["loss"]
        x = colours.test_images.float() / 255
        assert attacks.risk(model.eval(), x, colours.test_labels) == 0
    assert errors["bf16"] == pytest.approx(errors["fp32"], rel=0.1, abs=0.01)
    assert errors["bf16"] != errors["fp32"]


class Stop(Exception):
    pass


class Stopping(Identity):
    """The identity, until its `calls` are used up."""

    def __init__(self, calls):
        self.calls = calls

    def __repr__(self):
        return repr(Identity())

    def draw(self, sample, generator):
        self.calls -= 1
        if self.calls < 0:
            raise Stop
        return sample


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_training_goes_on_in_its_precision_alone(colours, tmp_path, precision):
    recipe = {"epochs": 4, "seed": 0, "batch_size": 24, "learning_rate": 0.05, "progress": False}
    recipe |= {"checkpoint": tmp_path / "one.safetensors", "checkpoint_seconds": 0}

    def fresh(precision=precision):
        return initialise(build("small_cnn", 3, 3, precision), 0)

    straight = fresh()
    training.train(straight, colours, Identity(), **recipe | {"checkpoint": None})
    with pytest.raises(Stop):
        training.train(fresh(), colours, Stopping(9), **recipe)
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    with pytest.raises(training.CheckpointError, match="precision"):
        training.train(fresh(other), colours, Identity(), **recipe)
    resumed = fresh()
    training.train(resumed, colours, Identity(), **recipe)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


# Compiled


def test_compiled_is_eager_up_to_rounding_in_values_and_slopes(compiled):
    model, x = network(compiled, seed=3), images(20)
    eager = copy.deepcopy(model)
    eager.compiled = {}
    tolerance = 1e-5 if compiled == "fp32" else 0.02
    with attacks.frozen(model), attacks.frozen(eager):
        slopes = []
        for one in (model, eager):
            x = x.detach().requires_grad_()
            out = forward(one, x)
            slopes.append((out.detach(), torch.autograd.grad(out.square().sum(), x)[0]))
    for got, want in zip(*slopes, strict=True):
        assert (got - want).abs().max() <= tolerance * want.abs().max()


def test_the_second_network_compiles_nothing(compiled, colours):
    """Nor does another augmentation, an attack, stress or an odd batch."""
    before = graphs()
    x, y = colours.test_images.float() / 255, colours.test_labels
    mixed = Mixup() @ Flip() @ Crop(1)
    for seed, own in enumerate([Identity(), mixed, with_probability(mixed, 0.5)]):
        model = network(compiled, seed)
        recipe = {"epochs": 2, "seed": seed, "batch_size": 24, "progress": False}
        training.train(model, colours, own, **recipe)
        model.eval()
        for part in (slice(0, 20), slice(20, 40), slice(40, 48)):
            x_adv = attacks.pgd(model, x[part], y[part], eps=0.5, steps=2)
            attacks.boundary_distance(model, x[part], y[part], steps=2, known=[x_adv])
        attacks.risk(model, x, y, batch_size=20)
        rng = torch.Generator().manual_seed(0)
        prediction_change_stress(model, x, eps=1.0, neighbours=5, generator=rng, batch_size=20)
    assert graphs() == before


def test_other_batches_run_eagerly_or_filled_up(compiled, monkeypatch):
    called, run = [], runtime._compiled()

    def spy(model, x):
        called.append((model.training, len(x)))
        return run(model, x)

    monkeypatch.setattr(runtime, "_compiled", lambda: spy)
    model, before = network(compiled).requires_grad_(False), graphs()
    for mode in (True, False):
        for n in (1, 9, 10, 19, 20, 23, 24, 25):
            x = images(n, seed=n).requires_grad_()
            got, want = forward(model.train(mode), x), model(x)
            assert got.shape == want.shape
            slopes = [torch.autograd.grad(out.square().sum(), x)[0] for out in (got, want)]
            tolerance = 1e-5 if compiled == "fp32" else 0.02
            for one, other in ((got, want), slopes):
                assert (one - other).abs().max() <= tolerance * other.abs().max()
    assert called == [(True, 24)] + 5 * [(False, 20)]
    assert graphs() <= before + 1  # a slope of inputs in train mode is what nobody else asks for
    called.clear()
    forward(build("small_cnn", 3, 3), images(20))
    forward(torch.nn.Flatten(), images(20))
    assert called == []


@pytest.mark.parametrize("off", [0.5, math.nan])
def test_compiled_logits_that_are_not_the_eager_ones_are_refused(compiled, monkeypatch, off):
    monkeypatch.setattr(runtime, "_compiled", lambda: lambda model, x: model(x) + off)
    with pytest.raises(RuntimeError, match="compile: false") as caught:
        warm_up(network(compiled), SHAPE)
    assert "\n" not in str(caught.value)


def test_how_a_network_runs_is_told():
    assert runtime.how(build("small_cnn", 3, 3)) == ""
    assert runtime.how(build("small_cnn", 3, 3, "bf16")) == ", bf16"
    assert runtime.how(network("bf16")) == ", bf16, compiled"
    assert runtime.how(torch.nn.Flatten()) == ""


# Devices


def test_memory_that_runs_out_names_the_setting():
    with pytest.raises(MemoryError, match="training: batch_size: 512") as caught:
        with memory_for("training: batch_size:", 512):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much")
    assert "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        with memory_for("training: batch_size:", 512):
            1 / 0  # noqa: B018


def test_switches_are_exact_for_fp32_and_fast_for_bf16(refuses):
    backends = torch.backends

    def switches():
        cudnn, matmul = backends.cudnn, backends.cuda.matmul
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32

    before = switches()
    try:
        runtime.set_up("bf16")
        assert switches() == (False, True, True, False)
        runtime.set_up("fp32")
        assert switches() == (True, False, False, False)
    finally:
        for name, value in zip(("deterministic", "benchmark", "allow_tf32"), before, strict=False):
            setattr(backends.cudnn, name, value)
        backends.cuda.matmul.allow_tf32 = before[3]
    refuses(lambda: runtime.set_up("half"), "half", "fp32", "bf16")
