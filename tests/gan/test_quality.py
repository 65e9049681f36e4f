"""The Frechet distance against closed forms; Inception's features and the judge of generators."""

import math
import socket
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib.data import ImageDataset
from lib.gan.quality import Judge, features, frechet_distance, generated, inception
from lib.gan.quality import frechet_distance as of_gan
from lib.vision import torchvision  # noqa: F401  (torch-fidelity needs it to be there)

seeds = st.integers(0, 2**32)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def with_moments(n, mean, cov, seed=0):
    """Features whose sample mean and unbiased covariance are exactly these."""
    z = torch.randn(n, len(mean), generator=rng(seed)).double()
    z = z - z.mean(0)
    whitening = torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1)))
    return z @ whitening.T @ torch.linalg.cholesky(cov).T + mean


def random_moments(d, seed):
    mean = torch.randn(d, generator=rng(seed)).double()
    root = torch.randn(d, d + 2, generator=rng(seed + 1)).double()
    return mean, root @ root.T / d


def closed_form(mean_a, cov_a, mean_b, cov_b):
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the square root as scipy has it."""
    a, b = np.asarray(cov_a), np.asarray(cov_b)
    root = scipy.linalg.sqrtm(a @ b).real
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(a + b - 2 * root))


def by_hand(a, b):
    """The same of two sets of features."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (np.asarray(f.double()).mean(0), np.cov(np.asarray(f.double()).T)) for f in (a, b)
    )
    return closed_form(mean_a, cov_a, mean_b, cov_b)


# ------------------------------------------------------------------ the distance


@given(st.integers(2, 6), seeds)
def test_of_two_gaussians(d, seed):
    a, b = random_moments(d, seed), random_moments(d, seed + 10)
    found = frechet_distance(with_moments(3 * d, *a, seed), with_moments(5 * d, *b, seed + 1))
    assert found == pytest.approx(closed_form(*a, *b), rel=1e-6, abs=1e-8)


@given(st.lists(st.tuples(*[st.floats(0.1, 3)] * 2, *[st.floats(-2, 2)] * 2),
                min_size=1, max_size=5), seeds)  # fmt: skip
def test_of_independent_features_is_the_sum_over_them(moments, seed):
    """Diagonal covariances: (mu_1 - mu_2)^2 + (s_1 - s_2)^2, dimension by dimension."""
    s1, s2, mu1, mu2 = torch.tensor(moments, dtype=torch.float64).T
    a = with_moments(20, mu1, s1.square().diag(), seed)
    b = with_moments(30, mu2, s2.square().diag(), seed + 1)
    expected = ((mu1 - mu2) ** 2 + (s1 - s2) ** 2).sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9),
       st.lists(st.floats(-5, 5), min_size=2, max_size=9))  # fmt: skip
def test_in_one_dimension(a, b):
    expected = (np.mean(a) - np.mean(b)) ** 2 + (np.std(a, ddof=1) - np.std(b, ddof=1)) ** 2
    columns = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (a, b))
    assert frechet_distance(*columns) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@st.composite
def pairs(draw):
    d, seed = draw(st.integers(1, 5)), draw(seeds)
    return tuple(
        torch.randn(d + 1 + draw(st.integers(1, 20)), d, generator=rng(seed + i)).double() * (1 + i)
        for i in range(2)
    )


@given(pairs(), seeds, st.floats(0.1, 10))
def test_properties_of_a_squared_distance(pair, seed, factor):
    a, b = pair
    distance = frechet_distance(a, b)
    close = {"rel": 1e-6, "abs": 1e-8 * (1 + factor**2)}
    assert isinstance(distance, float)
    assert distance >= 0
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(b, a) == pytest.approx(distance, **close)
    turn, _ = torch.linalg.qr(torch.randn(a.shape[1], a.shape[1], generator=rng(seed)).double())
    shift = torch.randn(a.shape[1], generator=rng(seed + 1)).double()
    assert frechet_distance(a @ turn + shift, b @ turn + shift) == pytest.approx(distance, **close)
    assert frechet_distance(factor * a, factor * b) == pytest.approx(factor**2 * distance, **close)
    order = torch.randperm(len(a), generator=rng(seed))
    assert frechet_distance(a[order], b) == pytest.approx(distance, **close)


def test_single_precision_far_from_the_origin():
    """Features are float32; means of a thousand and variances of one lose nothing."""
    a, b = (torch.randn(500, 3, generator=rng(i)) + 1000 + i for i in range(2))
    assert frechet_distance(a, b) == pytest.approx(by_hand(a, b), rel=1e-6)


def test_singular_covariances():
    """Sets that lie on a line: what is left is the distance along it."""
    line = torch.tensor([[3.0, 4.0]]).double() / 5
    a, b = (torch.randn(9, 1, generator=rng(i)).double() * (1 + i) for i in range(2))
    assert frechet_distance(a @ line, b @ line) == pytest.approx(frechet_distance(a, b), abs=1e-6)


def test_too_few_examples(refuses):
    enough, few = (torch.randn(n, 4, generator=rng(n)) for n in (5, 4))
    assert frechet_distance(enough, enough) == pytest.approx(0, abs=1e-6)
    for sets in ((few, enough), (enough, few)):
        refuses(lambda sets=sets: frechet_distance(*sets), "4 examples", "4 features", "few=True")
        assert frechet_distance(*sets, few=True) == pytest.approx(by_hand(*sets), abs=1e-4)
    refuses(lambda: frechet_distance(enough, few[:1], few=True), "1 examples")  # no covariance


@pytest.mark.parametrize("other", [(9, 2), (9,), (9, 3, 1)])
def test_features_must_have_one_shape(other, refuses):
    a, b = torch.rand(9, 3, generator=rng()), torch.rand(*other, generator=rng())
    refuses(lambda: frechet_distance(a, b), "[n, d]", [9, 3], list(other))
    refuses(lambda: frechet_distance(b, a), "[n, d]", [9, 3], list(other))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_must_be_finite(value, refuses):
    a = torch.rand(9, 3, generator=rng())
    spoilt = a.clone()
    spoilt[4, 1] = value
    refuses(lambda: frechet_distance(a, spoilt), "finite")
    refuses(lambda: frechet_distance(spoilt, a), "finite")


def test_it_is_the_public_one():
    assert of_gan is frechet_distance


# ------------------------------------------------------------------ images and networks


class Reads(nn.Module):
    """Stands for a study's network: `d` features, linear in the image."""

    def __init__(self, d=3, pixels=12):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(pixels, d, generator=rng(7)))

    def features(self, x):
        return x.flatten(1) @ self.weight


class Paints:
    """Stands for a generator: noise about a grey of the label; remembers what it is called with."""

    def __init__(self):
        self.labels, self.latents = [], []

    def __call__(self, labels, *, generator):
        noise = torch.rand(len(labels), 3, 2, 2, generator=generator)
        self.labels.append(labels)
        self.latents.append(noise)
        return noise / 2 + labels[:, None, None, None] / 4

    def painted(self):
        return torch.cat(self.latents) / 2 + torch.cat(self.labels)[:, None, None, None] / 4


def random_images(n, seed=0):
    return torch.randint(0, 256, (n, 3, 2, 2), generator=rng(seed)).to(torch.uint8)


@pytest.fixture
def images():
    return ImageDataset("random", ("a", "b", "c"), random_images(60), torch.arange(60) % 3,
                        random_images(41, 1) // 2, torch.arange(41) % 3)  # fmt: skip


@pytest.mark.parametrize("n", [1, 1000, 2001])
def test_features_are_those_of_the_images_in_0_1(n):
    model, x = Reads(), random_images(n)
    found = features(model, x)
    assert torch.allclose(found, x.flatten(1).float() / 255 @ model.weight, atol=1e-5)
    assert found.shape == (n, 3)
    assert not found.requires_grad


@pytest.mark.parametrize("n", [1, 1000, 2001])
def test_generated_images_are_bytes_for_the_labels(n, global_rng_untouched):
    labels, paints = torch.randint(0, 3, (n,), generator=rng()), Paints()
    out = global_rng_untouched(lambda: generated(paints, labels, rng(1)))
    assert out.dtype == torch.uint8
    assert out.shape == (n, 3, 2, 2)
    assert torch.equal(torch.cat(paints.labels), labels)
    assert (out.float() - 255 * paints.painted()).abs().max() <= 0.5 + 1e-4


def test_distance_is_that_from_all_training_images(images):
    model = Reads()
    train, test = (features(model, part) for part in (images.train_images, images.test_images))
    judge = Judge("judge", images, lambda: model, 0)
    assert judge.distance(images.test_images) == pytest.approx(by_hand(train, test), rel=1e-5)
    assert judge.distance(images.train_images) == pytest.approx(0, abs=1e-6)


def test_judge_takes_one_image_for_each_test_label_always_of_the_same_latents(
    images, global_rng_untouched
):
    model, paints = Reads(), Paints()
    judge = Judge("judge", images, lambda: model, 0)
    one, again = (global_rng_untouched(lambda: judge.generated(paints)) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(paints.latents[0], paints.latents[1])
    assert torch.equal(paints.labels[0], images.test_labels)
    assert torch.equal(one, (255 * paints.painted()[:41]).round().byte())
    expected = by_hand(features(model, images.train_images), features(model, one))
    assert judge.distance(one) == pytest.approx(expected, rel=1e-4)
    assert not torch.equal(Judge("judge", images, lambda: model, 1).generated(paints), one)


def test_judge_asks_for_its_network_once_and_late(images):
    asked = []

    def network():
        asked.append(True)
        return Reads()

    judge = Judge("judge", images, network, 0)
    assert not asked
    for _ in range(2):
        judge.distance(judge.generated(Paints()))
    assert len(asked) == 1


@pytest.mark.parametrize(("d", "enough"), [(40, True), (41, False), (60, False)])
def test_no_number_from_too_few_images(images, d, enough):
    judge = Judge("judge", images, lambda: Reads(d), 0)
    distance = judge.distance(images.test_images)
    assert (distance > 0) if enough else math.isnan(distance)


# ------------------------------------------------------------------ Inception

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


def test_without_weights_there_is_no_fid_and_it_is_said(monkeypatch, capsys):
    waits = []

    def nothing(*_, **__):
        waits.append(socket.getdefaulttimeout())
        raise URLError("no network here")

    monkeypatch.setattr(f"{MODULE}.load_state_dict_from_url", nothing)
    before = socket.getdefaulttimeout()
    assert inception(wait=3) is None
    said = capsys.readouterr()
    assert not said.out
    assert "FID" in said.err
    assert "no network here" in said.err
    assert waits == [3]
    assert socket.getdefaulttimeout() == before


def test_inceptions_features_are_what_the_network_gives(monkeypatch, global_rng_untouched):
    made = []

    def fill(network, state):  # its random weights stay
        assert state == "weights"
        made.append(network)

    monkeypatch.setattr(f"{MODULE}.load_state_dict_from_url", lambda *_, **__: "weights")
    monkeypatch.setattr(f"{MODULE}.FeatureExtractorInceptionV3.load_state_dict", fill)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of = inception()
    (network,) = made
    assert not network.training
    x = torch.randint(0, 256, (2, 3, 32, 32), generator=rng()).to(torch.uint8)
    found = global_rng_untouched(lambda: of(x))
    assert found.shape == (2, 2048)
    assert found.dtype == torch.float32
    assert torch.equal(found, network(x)[0])
    assert not torch.equal(found[0], found[1])


def test_inception_is_called_on_parts_in_their_order(monkeypatch):
    class Means(nn.Module):
        def __init__(self, *_):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(len(x))
            return (x.float().mean((1, 2, 3))[:, None],)

    monkeypatch.setattr(f"{MODULE}.FeatureExtractorInceptionV3", Means)
    x = random_images(250)
    assert torch.allclose(inception()(x)[:, 0], x.float().mean((1, 2, 3)))
