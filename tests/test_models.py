import copy

import pytest
import torch
from torch import nn

from lib import models
from lib.vision import models as peers

NAMES = ["small_cnn", "resnet9", "resnet9_narrow", "resnet18", "resnet50"]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return models.initialise(models.build(name, 10, 3), 0)


def images(channels=3, size=32, s=2):
    return torch.rand(s, channels, size, size, generator=torch.Generator().manual_seed(0))


def size(model):
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def test_head_on_features_is_the_model(model):
    model.eval()
    features = model.features(images())
    assert features.ndim == 2
    assert len(features) == 2
    assert isinstance(model.head, nn.Linear)
    assert model.head.in_features == features.shape[1]
    assert model(images()).shape == (2, 10)
    assert torch.equal(model(images()), model.head(features))


@torch.no_grad()
def test_eval_mode_treats_each_image_alone(model):
    model.eval()
    x = images(s=3)
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


def test_input_gradient_is_finite_and_not_zero(model):
    x = images().requires_grad_()
    gradient = torch.autograd.grad(model.eval()(x).logsumexp(1).sum(), x)[0]
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 32])
def test_small_cnn_is_small_and_takes_every_data_set(channels, side):
    model = models.build("small_cnn", 10, channels)
    assert size(model) <= 50_000
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert model(images(channels, side)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_networks_are_torchvisions_with_the_cifar_stem(name):
    model, peer = models.build(name, 10, 3), getattr(peers, name)(num_classes=10)
    peer.conv1 = nn.Conv2d(3, peer.conv1.out_channels, 3, padding=1, bias=False)
    assert size(model) == size(peer)
    if name == "resnet50":
        assert round(size(model) / 1e6, 2) == 23.52
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    stem = convolutions[0]
    assert stem.kernel_size == (3, 3)
    assert stem.stride == (1, 1)
    assert stem.padding == (1, 1)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    # Three halvings from 32 x 32: the last convolution sees 4 x 4.
    sides = []
    convolutions[-1].register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    model.eval()(images(s=1))
    assert sides == [4]


def test_weights_depend_on_the_seed_alone(name, global_rng_untouched):
    def weights(seed, torch_seed):
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed)
            model = models.build(name, 10, 3)
        global_rng_untouched(lambda: models.initialise(model, seed))
        return model.state_dict()

    one, again, other = weights(1, 1), weights(1, 2), weights(2, 1)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(next(iter(one.values())), next(iter(other.values())))


def test_initialise_resets_a_trained_network(name, model):
    model = copy.deepcopy(model)
    fresh = copy.deepcopy(models.initialise(model, 3).state_dict())
    with torch.no_grad():
        model.train()(images(s=4))  # moves BatchNorm's statistics
        for p in model.parameters():
            p.add_(1)
    models.initialise(model, 3)
    assert all(torch.equal(value, fresh[key]) for key, value in model.state_dict().items())


def test_initial_weights_are_not_constant(model):
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert weights
    assert all(w.std() > 0 and w.isfinite().all() for w in weights)


def test_unknown_network(refuses):
    refuses(lambda: models.build("vgg", 10, 3), "vgg", *NAMES)


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (10, 0), (-1, 3)])
def test_sizes_that_make_no_network(classes, channels, refuses):
    refuses(lambda: models.build("small_cnn", classes, channels), min(classes, channels))


def test_dense_networks_are_products_of_their_layers():
    x = torch.rand(4, 2, 3, 5)
    flat = (x.flatten(1) - 0.5) / 0.25
    logistic, deep = models.dense((2, 3, 5), 4), models.dense((2, 3, 5), 4, [7, 6])
    assert torch.allclose(
        logistic(x), flat @ logistic.head.weight.T + logistic.head.bias, atol=1e-5
    )
    one, two = (layer for layer in deep.body if hasattr(layer, "weight"))
    hidden = (two((one(flat)).relu())).relu()
    assert torch.allclose(deep(x), deep.head(hidden), atol=1e-5)
    assert deep(x).shape == (4, 4)


def test_dense_networks_of_no_units_are_refused(refuses):
    refuses(lambda: models.dense((1, 4, 4), 2, [0]), "hidden", 0)
    refuses(lambda: models.dense((1, 4, 4), 0), "classes", 0)
