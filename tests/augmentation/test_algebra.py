"""Augmentations as random functions. A new one is tested by being listed in ALL or a profile."""

import copy
import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from lib.augmentation.algebra import (
    Augmentation,
    Composition,
    Identity,
    Sample,
    changed,
    with_probability,
)
from lib.augmentation.generative import Generative
from lib.augmentation.mixup import Mixup
from lib.augmentation.transforms import Classic, Crop, Flip, Jitter, Rotation, Zoom
from lib.gan import networks as gan_networks
from lib.study import recipes
from lib.study.profile import Profile, Study
from lib.study.settings import FOLDER
from lib.vision import torchvision

tv = torchvision.transforms.functional


@functools.cache
def untrained(network, shape, classes, device="cpu", seed=0):
    """A generator with random weights, those of its labels too."""
    with torch.random.fork_rng():
        generator, _ = gan_networks.build(
            network, shape, classes, width=4, critic_width=1, latent=3, spectral=False
        )
    draws = rng(seed)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, generator=draws)
    return generator.to(device).eval().requires_grad_(False)


class Suited(Augmentation):
    """`Generative` with an untrained generator of the shape and classes of the sample it gets."""

    def __init__(self, network):
        self.network = network

    def draw(self, sample, generator):
        shape, device = tuple(sample.x.shape[1:]), str(sample.x.device)
        network = untrained(self.network, shape, sample.y.shape[1], device)
        return Generative(network).draw(sample, generator)


# Each augmentation with the chance that it changes an example of distinct pixels, None where it
# has no coin for each example. (A crop by padding k moves the image but once in (2k + 1)^2.)
ALL = {
    "Identity": (Identity(), 0),
    "Crop": (Crop(2), 24 / 25),
    "Flip": (Flip(), 1 / 2),
    "Jitter": (Jitter(), 1),
    "Rotation": (Rotation(15), 1),
    "Zoom": (Zoom(0.1), 1),
    "Classic colour": (Classic("colour"), None),
    "Classic digits": (Classic("digits"), None),
    "Mixup": (Mixup(), None),
    "Mixup sharp": (Mixup(0.1), None),
    "Mixup per example": (Mixup(per="example"), 1),
    "Generative dense": (Suited("dense"), 1),
    "Generative residual": (Suited("residual"), 1),
    "composition": (Jitter() @ Crop(1), None),
    "of all kinds": (Mixup(0.5) @ Suited("dense") @ Mixup(per="example") @ Flip(), None),
    "sometimes": (with_probability(Jitter(), 0.5), None),
    "sometimes a batch": (with_probability(Mixup(), 0.5), None),
    "sometimes generated": (with_probability(Suited("dense") @ Crop(1), 0.5), None),
}
for profile in map(Profile.load, sorted(file.stem for file in FOLDER.glob("*.yaml"))):
    if not isinstance(profile, Study):
        continue
    for name in dict.fromkeys([*profile.augmentations, *profile.grid["augmentation"]]):
        if not profile.generators(name) and not profile.attacks(name):  # see Suited
            ALL[f"{profile.name} {name}"] = (recipes.augmentation(profile, name), None)
KINDS = {name: augmentation for name, (augmentation, _) in ALL.items()}
every = pytest.mark.parametrize("augmentation", KINDS.values(), ids=list(KINDS))
anything = st.sampled_from(list(KINDS.values()))
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module", params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request):
    return request.param


def rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def draw_sample(s=16, channels=3, side=8, classes=4, seed=0):
    x = torch.rand(s, channels, side, side, generator=rng(seed))
    return Sample(x, torch.eye(classes)[torch.arange(s) % classes])


@st.composite
def samples(draw, device):
    """Small ones: noise or black and white, labels one-hot or soft, in either precision."""
    s, classes, seed = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(seeds)
    sample = draw_sample(s, draw(st.sampled_from([1, 3])), draw(st.integers(2, 9)), classes, seed)
    x, y = sample.x, sample.y
    if draw(st.booleans()):  # on the edge of what is allowed
        x = x.round()
    if draw(st.booleans()):
        y = torch.rand(s, classes, generator=rng(seed)).softmax(1)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return Sample(x.to(device, dtype), y.to(device, dtype))


def copied(sample):
    return Sample(sample.x.clone(), sample.y.clone())


def same(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


class Set(Augmentation):
    """Certain and recognisable: sets one pixel to one value."""

    def __init__(self, place, value=1.0):
        self.place, self.value = place, value

    def draw(self, sample, generator):
        x = sample.x.clone()
        x.flatten(1)[:, self.place] = self.value
        return Sample(x, sample.y)


# ------------------------------------------------------------------ what holds for every one


@every
@given(st.data(), seeds)
def test_a_sample_goes_to_a_sample_and_stays(augmentation, device, data, seed):
    sample = data.draw(samples(device))
    augmentation = with_probability(augmentation, data.draw(st.floats(0, 1)))
    kept = copied(sample)
    out = augmentation(sample, rng(seed, device))
    assert same(sample, kept)
    for after, before in ((out.x, sample.x), (out.y, sample.y)):
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        assert after.device == before.device
    assert out.x.min() >= 0
    assert out.x.max() <= 1
    assert out.y.min() >= 0
    assert torch.allclose(out.y.sum(1), torch.ones_like(out.y[:, 0]))


@every
@given(st.data(), seeds)
def test_generator_alone_decides(augmentation, device, data, seed):
    """The same state, the same draw; and neither is another source drawn from."""
    sample = data.draw(samples(device))
    others = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    one, again = (augmentation(sample, rng(seed, device)) for _ in range(2))
    assert same(one, again)
    after = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    assert all(torch.equal(a, b) for a, b in zip(others, after, strict=True))


@every
def test_it_is_random_and_does_something(augmentation):
    sample = draw_sample()
    outs = [augmentation(sample, rng(seed)) for seed in range(8)]
    differ = any(not same(outs[0], out) for out in outs[1:])
    assert differ or isinstance(augmentation, Identity)
    assert any(changed(sample, out).any() for out in outs) or isinstance(augmentation, Identity)


@every
@given(st.data(), seeds)
def test_identity_is_neutral(augmentation, device, data, seed):
    sample = data.draw(samples(device))
    expected = augmentation(sample, rng(seed, device))
    assert same((augmentation @ Identity())(sample, rng(seed, device)), expected)
    assert same((Identity() @ augmentation)(sample, rng(seed, device)), expected)


@every
@given(anything, anything, st.data(), seeds)
def test_composition_is_application_and_associative(augmentation, device, a, b, data, seed):
    sample, draws = data.draw(samples(device)), rng(seed, device)
    expected = a(augmentation(b(sample, draws), draws), draws)
    assert same(((a @ augmentation) @ b)(sample, rng(seed, device)), expected)
    assert same((a @ (augmentation @ b))(sample, rng(seed, device)), expected)


@every
@given(st.data(), seeds, st.sampled_from([None, "example", "batch"]))
def test_no_coin_at_the_ends(augmentation, device, data, seed, per):
    sample = data.draw(samples(device))
    never, always = (with_probability(augmentation, p, per) for p in (0, 1.0))
    assert isinstance(never, Identity)
    assert same(never(sample, rng(seed, device)), sample)
    assert always is augmentation


@every
@given(st.data(), seeds, st.floats(0.01, 0.99), st.sampled_from(["example", "batch"]))
def test_a_coin_takes_the_draw_or_leaves_the_example(augmentation, device, data, seed, p, per):
    """The coins first, then the draw they decide on; of a composition one factor is tried."""
    while isinstance(augmentation, Composition):
        augmentation = augmentation.factors[0]
    sample, draws = data.draw(samples(device)), rng(seed, device)
    torch.rand(len(sample) if per == "example" else 1, generator=draws, device=device)
    drawn = augmentation(sample, draws)
    out = with_probability(augmentation, p, per)(sample, rng(seed, device))
    taken, left = (
        (out.x == other.x).flatten(1).all(1) & (out.y == other.y).all(1)
        for other in (drawn, sample)
    )
    assert (taken | left).all()
    assert per == "example" or taken.all() or left.all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", [name for name, (_, share) in ALL.items() if share is not None])
def test_share_of_changed_examples(name, p):
    """Bit for bit the same unless the coin fell heads and the draw changes anything: p x share."""
    augmentation, share = ALL[name]
    n = 4000
    sample = draw_sample(n, side=4)
    out = with_probability(augmentation, p)(sample, rng())
    moved = int(((out.x != sample.x).flatten(1).any(1) | (out.y != sample.y).any(1)).sum())
    assert stats.binomtest(moved, n, p * share).pvalue > 1e-4


@every
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf, "0.5", None, 0.5j, [0.5]])
def test_p_must_be_a_probability(augmentation, p, refuses):
    refuses(lambda: with_probability(augmentation, p), repr(p), "[0, 1]")


BAD = {
    "above 1": lambda s: Sample(s.x + 0.1, s.y),
    "below 0": lambda s: Sample(-s.x, s.y),
    "NaN": lambda s: Sample(torch.full_like(s.x, math.nan), s.y),
    "no batch dimension": lambda s: Sample(s.x[0], s.y),
    "flat": lambda s: Sample(s.x.flatten(1), s.y),
    "bytes": lambda s: Sample((s.x * 255).byte(), s.y),
    "labels not rows": lambda s: Sample(s.x, s.y.argmax(1)),
    "rows not probabilities": lambda s: Sample(s.x, 2 * s.y),
    "fewer labels": lambda s: Sample(s.x, s.y[1:]),
}


@every
@pytest.mark.parametrize("spoil", BAD.values(), ids=list(BAD))
def test_what_is_not_a_sample(augmentation, spoil, refuses):
    refuses(lambda: augmentation(spoil(draw_sample()), rng()))


# ------------------------------------------------------------------ composition and coins


def test_outermost_first():
    a, b = Set(0, 0.25), Set(0, 0.75)
    assert (a @ b).factors == (a, b)
    sample = draw_sample()
    assert (Composition((a, b))(sample, rng()).x.flatten(1)[:, 0] == 0.25).all()
    assert ((b @ a)(sample, rng()).x.flatten(1)[:, 0] == 0.75).all()


def test_changed_sees_images_and_labels():
    before = draw_sample(4)
    x, y = before.x.clone(), before.y.clone()
    x[1, 0, 0, 0] += 1e-7
    y[2] = 0.25
    assert changed(before, Sample(x, y)).tolist() == [False, True, True, False]


def test_each_factor_has_a_coin_of_its_own():
    """Two factors at p, seen at two pixels: the four outcomes are those of independent coins."""
    n, p = 20_000, 0.3
    sample = Sample(torch.full((n, 1, 2, 2), 0.5), torch.ones(n, 1))
    out = with_probability(Set(0) @ (Set(1) @ Set(2)), p)(sample, rng()).x.flatten(1)
    first, second, third = (out[:, :3] == 1).T
    outcomes = torch.bincount(first * 4 + second * 2 + third * 1, minlength=8)
    heads = [sum(coins) for coins in itertools.product([0, 1], repeat=3)]
    expected = [n * p**k * (1 - p) ** (3 - k) for k in heads]
    assert stats.chisquare(outcomes, expected).pvalue > 1e-4
    assert (out[:, 3] == 0.5).all()


@pytest.mark.parametrize("per", ["batch", None])
def test_mixups_coin_is_the_batchs(per):
    p, trials = 0.3, 400
    sometimes, draws = with_probability(Mixup(), p, per=per), rng()
    sample = draw_sample(32, side=2, classes=32)
    whole = 0
    for _ in range(trials):
        moved = changed(sample, sometimes(sample, draws))
        # A permutation keeps one place on average, and Poisson's tail ends well before ten.
        assert not moved.any() or moved.sum() >= 22
        whole += int(moved.any())
    assert stats.binomtest(whole, trials, p).pvalue > 1e-4


@pytest.mark.parametrize(
    ("augmentation", "per"),
    [(Mixup(), "example"), (Jitter(), "example"), (Mixup(per="example"), None),
     (Suited("dense"), None)],
    ids=["Mixup", "Jitter", "Mixup by its own unit", "Generative by its own unit"],
)  # fmt: skip
def test_per_example(augmentation, per):
    sample = draw_sample(2000, side=2, classes=2000)
    moved = changed(sample, with_probability(augmentation, 0.4, per=per)(sample, rng()))
    assert stats.binomtest(int(moved.sum()), 2000, 0.4).pvalue > 1e-4


def test_per_batch():
    sometimes, draws, sample = with_probability(Jitter(), 0.4, per="batch"), rng(), draw_sample()
    moved = torch.stack([changed(sample, sometimes(sample, draws)) for _ in range(300)])
    assert torch.equal(moved.all(1), moved.any(1))
    assert stats.binomtest(int(moved.all(1).sum()), 300, 0.4).pvalue > 1e-4


def test_unknown_unit(refuses):
    refuses(lambda: with_probability(Flip(), 0.5, per="pixel"), "pixel", "example", "batch")


@pytest.mark.parametrize(
    ("images", "kinds"),
    [("colour", [Rotation, Jitter, Flip, Crop]), ("digits", [Zoom, Rotation, Crop])],
)
def test_classic_composes(images, kinds):
    assert [type(factor) for factor in Classic(images).factors] == kinds


def test_unknown_kind_of_images(refuses):
    refuses(lambda: Classic("sepia"), "sepia", "colour", "digits")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Crop(-1), "-1"), (lambda: Crop(0.5), "0.5"), (lambda: Crop("2"), "'2'"),
        (lambda: Jitter(brightness=1), "1"), (lambda: Jitter(contrast=-0.1), "-0.1"),
        (lambda: Jitter(saturation=math.nan), "nan"), (lambda: Rotation(math.inf), "inf"),
        (lambda: Rotation(-3), "-3"), (lambda: Zoom(1), "1"), (lambda: Zoom(None), "None"),
        (lambda: Mixup(math.inf), "inf"),
    ],
)  # fmt: skip
def test_a_transform_refuses_what_it_cannot_do(refuses, make, said):
    refuses(make, "must be", said)


# ------------------------------------------------------------------ each against its definition


@pytest.mark.parametrize("padding", [1, 2])
def test_crop_is_a_uniform_window_of_the_padded_image(padding):
    n, side = 3000, 5
    x = torch.rand(1, 3, side, side, generator=rng()).expand(n, -1, -1, -1)
    out = Crop(padding)(Sample(x, torch.ones(n, 1)), rng(1)).x
    padded = F.pad(x[0], [padding] * 4)
    places = range(2 * padding + 1)
    windows = [padded[:, i : i + side, j : j + side] for i in places for j in places]
    hits = [int((out == window).flatten(1).all(1).sum()) for window in windows]
    assert sum(hits) == n
    assert stats.chisquare(hits).pvalue > 1e-4


def test_flip_is_the_mirror_image_or_the_image():
    sample = draw_sample(1000, side=5)
    out = Flip()(sample, rng(1)).x
    stayed = (out == sample.x).flatten(1).all(1)
    assert torch.equal(out[~stayed], tv.hflip(sample.x[~stayed]))
    assert stats.binomtest(int(stayed.sum()), 1000, 0.5).pvalue > 1e-4


def jitter_peer(x, factors):
    for adjust, factor in zip(
        (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), factors, strict=True
    ):
        x = adjust(x, factor)
    return x


def test_jitter_is_torchvisions():
    """Some three factors within 1 +- .25 explain every pixel, clipped ones and their order too."""
    sample = draw_sample(6, side=12)
    out = Jitter()(sample, rng(1)).x
    for x, jittered in zip(sample.x.double(), out.double(), strict=True):
        fits = [
            optimize.least_squares(
                lambda factors, x=x, out=jittered: (jitter_peer(x, factors) - out).ravel().numpy(),
                start, bounds=(0.75, 1.25), xtol=1e-12, ftol=1e-12, gtol=1e-12,
            )
            for start in ([1, 1, 1], [1.1, 0.9, 1], [0.9, 1.1, 1])
        ]  # fmt: skip
        assert min(abs(fit.fun).max() for fit in fits) < 1e-4


# In a scene of these values nothing is clipped, and each factor is a ratio of differences.
FACTORS = {
    "brightness": ({"brightness": 0.25}, lambda x: x[:, 0, 0, 0]),
    "contrast": ({"contrast": 0.25}, lambda x: x[:, 0, 0, 0] - x[:, 0, 0, 1]),
    "saturation": ({"saturation": 0.25}, lambda x: x[:, 0, 0, 0] - x[:, 1, 0, 0]),
}


@pytest.mark.parametrize(("setting", "read"), FACTORS.values(), ids=list(FACTORS))
def test_jitters_factors_are_uniform(setting, read):
    n = 2000
    x = torch.tensor([[[0.7, 0.5]], [[0.4, 0.4]], [[0.5, 0.6]]]).expand(n, 3, 1, 2)
    off = dict.fromkeys(("brightness", "contrast", "saturation"), 0.0)
    out = Jitter(**{**off, **setting})(Sample(x, torch.ones(n, 1)), rng()).x
    factors = read(out) / read(x)
    assert stats.kstest(factors.numpy(), stats.uniform(0.75, 0.5).cdf).pvalue > 1e-4
    for i in range(3):
        peer = jitter_peer(x[i], [factors[i].item() if k in setting else 1.0 for k in off])
        assert torch.allclose(out[i], peer, atol=1e-5)


def test_no_saturation_without_colour():
    sample = draw_sample(channels=1)
    out = Jitter(brightness=0, contrast=0, saturation=0.25)(sample, rng())
    assert torch.allclose(out.x, sample.x, atol=1e-6)


def ramps(n, height, width):
    """Planes across and down; bilinear reading is exact on them away from the border."""
    across, down = (0.5 + 0.04 * (torch.arange(m) - (m - 1) / 2) for m in (width, height))
    x = torch.stack([across.expand(height, width), down[:, None].expand(height, width)])
    return Sample(x.expand(n, 2, height, width), torch.ones(n, 1))


def slopes(x):
    """The centre and `[n, channel, direction]`, the planes' slopes in units of the input's."""
    i, j = x.shape[2] // 2, x.shape[3] // 2
    across = (x[:, :, i, j + 1] - x[:, :, i, j - 1]) / 0.08
    down = (x[:, :, i + 1, j] - x[:, :, i - 1, j]) / 0.08
    return x[:, :, i, j], torch.stack([across, down], 2)


shapes = pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 15)])


@shapes
def test_rotation_turns_planes_by_a_uniform_angle(height, width):
    n = 2000
    centre, turn = slopes(Rotation(20)(ramps(n, height, width), rng()).x)
    assert torch.allclose(centre, torch.tensor(0.5), atol=1e-5)
    cos, sin = turn[:, 0, 0], turn[:, 0, 1]
    assert torch.allclose(cos.square() + sin.square(), torch.ones(n), atol=1e-4)
    assert torch.allclose(turn[:, 1], torch.stack([-sin, cos], 1), atol=1e-4)
    angle = torch.atan2(sin, cos).rad2deg().numpy()
    assert stats.kstest(angle, stats.uniform(-20, 40).cdf).pvalue > 1e-4


def test_rotation_is_torchvisions():
    x = F.pad(torch.rand(5, 3, 8, 8, generator=rng()), [4] * 4)  # the border apart
    out = Rotation(15)(Sample(x, torch.ones(5, 1)), rng(1)).x
    bilinear = torchvision.transforms.InterpolationMode.BILINEAR

    def distance(angle, i):
        return (tv.rotate(x[i], float(angle), bilinear) - out[i]).abs().max().item()

    for i in range(5):
        coarse = min(torch.arange(-15, 15.1, 0.5), key=lambda angle: distance(angle, i))
        bounds = (coarse.item() - 0.5, coarse.item() + 0.5)
        fit = optimize.minimize_scalar(distance, bounds=bounds, args=(i,), method="bounded",
                                       options={"xatol": 1e-5})  # fmt: skip
        assert fit.fun < 1e-3


@pytest.mark.parametrize("augmentation", [Rotation(30), Zoom(0.3)], ids=["Rotation", "Zoom"])
def test_zeros_come_in_from_outside(augmentation):
    out = augmentation(Sample(torch.ones(50, 1, 9, 9), torch.ones(50, 1)), rng()).x
    corners = out[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).any()
    assert torch.allclose(out[:, :, 3:6, 3:6], torch.tensor(1.0), atol=1e-5)


@shapes
def test_zoom_enlarges_by_a_uniform_factor(height, width):
    centre, scale = slopes(Zoom(0.2)(ramps(2000, height, width), rng()).x)
    assert torch.allclose(centre, torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(scale[:, 0, 0], scale[:, 1, 1], atol=1e-4)
    assert scale[:, [0, 1], [1, 0]].abs().max() < 1e-4
    factor = 1 / scale[:, 0, 0].numpy()
    assert stats.kstest(factor, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-4


def mixing(sample, draws, alpha):
    """lambda and the permutation of one draw, read off labels that are all different."""
    out = Mixup(alpha)(sample, draws)
    weights, s = out.y, len(sample.x)
    moved = weights.diagonal() < 1
    lam = weights.diagonal()[moved]
    assert torch.allclose(lam, lam[:1], atol=1e-6)
    others = weights - torch.diag(weights.diagonal())
    perm = torch.where(moved, others.argmax(1), torch.arange(s))
    assert sorted(perm.tolist()) == list(range(s))
    for mixed, plain in ((out.x, sample.x), (out.y, sample.y)):
        assert torch.allclose(mixed, lam[0] * plain + (1 - lam[0]) * plain[perm], atol=1e-6)
    return lam[0].item(), perm[0].item()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixup_is_one_convex_combination_of_the_batch(alpha):
    """x' = lam x + (1 - lam) x[perm], y alike; lam ~ Beta(alpha, alpha), perm uniform."""
    s, trials, draws = 8, 600, rng()
    sample = draw_sample(s, side=2, classes=s)
    sample = Sample(sample.x.double(), sample.y.double())  # Beta(.3, .3) comes close to 0 and 1
    lams, partners = zip(*(mixing(sample, draws, alpha) for _ in range(trials)), strict=True)
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    hits = [partners.count(i) for i in range(s)]
    assert stats.chisquare(hits).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan])
def test_mixup_needs_a_positive_alpha(alpha, refuses):
    refuses(lambda: Mixup(alpha), repr(alpha), "> 0")


def partners_of(sample, draws, alpha):
    """lambdas and partners of one draw, read off labels that are all different."""
    out = Mixup(alpha, per="example")(sample, draws)
    s = len(sample)
    lam = out.y.diagonal()
    others = out.y - torch.diag(lam)
    partners = torch.where(others.sum(1) > 0, others.argmax(1), torch.arange(s))
    for mixed, plain in ((out.x.flatten(1), sample.x.flatten(1)), (out.y, sample.y)):
        expected = lam[:, None] * plain + (1 - lam[:, None]) * plain[partners]
        assert torch.allclose(mixed, expected, atol=1e-6)
    return lam, partners


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixup_per_example_mixes_each_with_a_lambda_and_a_partner_of_its_own(alpha):
    """lam_i ~ Beta(alpha, alpha), j_i uniform with replacement, all independent."""
    s, trials, draws = 5, 1000, rng()
    sample = draw_sample(s, side=2, classes=s)
    sample = Sample(sample.x.double(), sample.y.double())
    lams, partners = map(
        torch.stack, zip(*(partners_of(sample, draws, alpha) for _ in range(trials)), strict=True)
    )
    others = partners != torch.arange(s)  # with oneself every lambda is the same
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(lams[others].numpy(), beta.cdf).pvalue > 1e-4
    for i in range(s):
        assert stats.chisquare(partners[:, i].bincount(minlength=s)).pvalue > 1e-4
    for i, j in ((0, 1), (1, 4)):
        pairs = (s * partners[:, i] + partners[:, j]).bincount(minlength=s * s)
        assert stats.chisquare(pairs).pvalue > 1e-4  # the same partner for two, too
        both = others[:, i] & others[:, j]
        quarters = 2 * (lams[both, i] > 0.5).long() + (lams[both, j] > 0.5).long()
        assert stats.chisquare(quarters.bincount(minlength=4)).pvalue > 1e-4
        assert stats.spearmanr(lams[both, i], lams[both, j]).pvalue > 1e-4
    first = lams[others[:, 0], 0], partners[others[:, 0], 0]
    by_partner = [first[0][first[1] == j].numpy() for j in range(1, s)]
    assert stats.kruskal(*by_partner).pvalue > 1e-4  # nor does lambda know the partner


def test_mixup_per_example_does_not_know_the_batch():
    """Given the sample, what comes of one example in a large batch is what comes of it in a row."""
    sample = draw_sample(4000, side=2, classes=2)
    lam = Mixup(2.0, per="example")(sample, rng()).y.max(1).values
    mixed = lam[lam < 1 - 1e-6].numpy()  # a partner of the other class: max(lam, 1 - lam)
    assert stats.binomtest(len(mixed), 4000, 0.5).pvalue > 1e-4
    beta = stats.beta(2, 2)
    assert stats.kstest(mixed, lambda t: beta.cdf(t) - beta.cdf(1 - t)).pvalue > 1e-4


@pytest.mark.parametrize("per", ["pixel", "Batch", "", 1])
def test_unknown_unit_of_mixup(per, refuses):
    refuses(lambda: Mixup(per=per), repr(per), "example", "batch")


class Painter(torch.nn.Module):
    """Stands for a generator: paints the label as a grey, with noise that stays below a tenth."""

    def __init__(self, shape=(1, 2, 2), classes=4):
        super().__init__()
        self.shape, self.classes, self.asked = shape, classes, []

    def forward(self, labels, *, generator):
        self.asked.append(labels)
        noise = torch.rand(len(labels), *self.shape, generator=generator)
        return (labels[:, None, None, None] + 0.9 * noise) / self.classes

    @staticmethod
    def read(x):
        return (x[:, 0, 0, 0] * 4).long()


def test_generated_images_are_the_networks_for_the_labels():
    painter, sample = Painter(), draw_sample(12, channels=1, side=2)
    out = Generative(painter)(sample, rng())
    assert torch.equal(out.y, sample.y)  # of a certain label there is nothing to draw
    (asked,) = painter.asked
    assert asked.dtype == torch.int64
    assert torch.equal(asked, sample.y.argmax(1))
    assert torch.equal(painter.read(out.x), asked)
    assert len(out.x.unique()) == 12 * 4  # images of their own


@pytest.mark.parametrize("network", ["dense", "residual"])
def test_generated_images_have_the_law_of_the_network(network):
    """Of one class: the distribution of a pixel is that of the generator called directly."""
    made, n = untrained(network, (1, 4, 4), 3), 2000
    out = Generative(made)(
        Sample(torch.zeros(n, 1, 4, 4), torch.eye(3)[torch.ones(n).long()]), rng()
    )
    direct = made(torch.ones(n, dtype=torch.int64), generator=rng(1))
    for place in ((0, 0, 0), (0, 2, 3)):
        pixels = (images[:, *place].numpy() for images in (out.x, direct))
        assert stats.ks_2samp(*pixels).pvalue > 1e-4


def test_of_a_soft_label_the_class_is_drawn():
    """From its row, one-hot then, so that the expected label stays what it was."""
    n, painter = 3000, Painter()
    rows = torch.tensor([[1.0, 2.0, 1.0, 4.0], [0.0, 6.0, 0.0, 2.0], [2.0] * 4]) / 8
    sample = Sample(torch.zeros(3 * n, 1, 2, 2), rows.repeat(n, 1))
    out = Generative(painter)(sample, rng())
    assert torch.equal(out.y.sort(1).values, torch.eye(4)[[3] * 3 * n])
    classes = out.y.argmax(1)
    assert torch.equal(painter.read(out.x), classes)
    for row, drawn in zip(rows, classes.view(n, 3).T, strict=True):
        hits, possible = drawn.bincount(minlength=4), row > 0
        assert not hits[~possible].any()
        assert stats.chisquare(hits[possible], n * row[possible].double()).pvalue > 1e-4
    pairs = (4 * classes.view(n, 3)[:, 0] + classes.view(n, 3)[:, 2]).bincount(minlength=16)
    expected = n * (rows[0][:, None] * rows[2]).flatten().double()
    assert stats.chisquare(pairs, expected).pvalue > 1e-4  # examples are independent


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_examples_that_are_not_generated_stay_bit_for_bit(p):
    sample = draw_sample(3000, channels=1, side=2)
    sample = Sample(sample.x, (sample.y + 0.5) / 3)  # soft: a generated label is another
    out = with_probability(Generative(Painter()), p)(sample, rng())
    hot = (out.y == 1).any(1)
    assert stats.binomtest(int(hot.sum()), 3000, p).pvalue > 1e-4
    assert torch.equal(out.y[~hot], sample.y[~hot])
    assert torch.equal(out.x[~hot], sample.x[~hot])
    assert (out.x != sample.x).flatten(1).any(1)[hot].all()
    assert torch.equal(Painter.read(out.x[hot]), out.y[hot].argmax(1))


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 2, 3), 4), ((1, 3, 2), 4), ((3, 2, 2), 4), ((1, 2, 2), 3)]
)
@pytest.mark.parametrize("p", [1, 0.5])
def test_a_generator_of_something_else(shape, classes, p, refuses):
    generative = with_probability(Generative(Painter(shape, classes)), p) @ Flip()
    refuses(
        lambda: generative(draw_sample(channels=1, side=2), rng()),
        f"{classes} classes", list(shape), "4 classes", [1, 2, 2],
    )  # fmt: skip


@pytest.mark.parametrize("network", ["dense", "residual"])
def test_a_generator_is_known_by_its_weights(network):
    made, other = (untrained(network, (1, 4, 4), 3, seed=seed) for seed in range(2))
    assert repr(Generative(made)) == repr(Generative(copy.deepcopy(made)))
    assert repr(Generative(made)) != repr(Generative(other))
    nearly = copy.deepcopy(made)
    next(nearly.parameters()).view(-1)[0] += 1e-4
    assert repr(Generative(nearly)) != repr(Generative(made))
    composed = [repr(with_probability(Generative(n), 0.5) @ Flip()) for n in (made, other)]
    assert composed[0] != composed[1]
