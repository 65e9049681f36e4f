import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from lib import augmentation as library
from lib.augmentation.algebra import Augmentation, Identity, Sample
from lib.augmentation.mixup import Mixup
from lib.augmentation.transforms import Classic
from lib.study import recipes
from lib.study.grid import Point, grid, jobs
from lib.study.profile import Profile, Study
from lib.study.settings import FOLDER

FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SHIPPED = [name for name in FILES if isinstance(Profile.read(name), Study)]


def settings_of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def point(augmentation="classic", p=0.5, seed=0):
    return Point("digits", "small_cnn", augmentation, p, seed)


@pytest.fixture
def altered(tmp_path):
    """`altered(**{"grid.p": [0, 1], "subset": None})`: the path of a changed digits profile."""

    def write(**changes):
        settings = settings_of("digits")
        for where, value in changes.items():
            *above, name = where.split(".")
            section = settings
            for part in above:
                section = section[part]
            section[name] = value
            if value is None:
                del section[name]
        path = tmp_path / "altered.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return write


# Points


@given(
    augmentation=st.sampled_from(["classic", "mixup", "mixup+classic", "none"]),
    seed=st.integers(0, 10**6),
)
def test_p_zero_is_one_point_whatever_the_augmentation(augmentation, seed):
    zero = point(augmentation, 0, seed)
    assert zero == point("none", 0.0, seed) == point("anything", -0.0, seed)
    assert hash(zero) == hash(point("none", 0, seed))
    assert zero.augmentation == "none"
    assert str(zero) == f"none-p0-seed{seed}"


@given(numerators=st.lists(st.integers(1, 10), min_size=1, max_size=5))
def test_p_is_the_number_that_was_meant(numerators):
    total = sum(Fraction(n, 50) for n in numerators)
    assert point(p=sum(n / 50 for n in numerators)) == point(p=float(total))
    assert str(point(p=sum(n / 50 for n in numerators))) == str(point(p=float(total)))


def test_names():
    assert 0.1 + 0.2 != 0.3
    assert str(point(p=0.1 + 0.2)) == "classic-p0.3-seed0"
    assert str(point(p=1)) == str(point(p=1.0)) == "classic-p1-seed0"
    assert str(point("a+b", 0.25, 12)) == "a+b-p0.25-seed12"


@given(p=st.floats(1e-5, 1), q=st.floats(1e-5, 1))
def test_different_points_have_different_names(p, q):
    one, other = point(p=p), point(p=q)
    assert (str(one) == str(other)) == (one == other)
    assert (one == other) == (abs(one.p - other.p) < 5e-7)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf, "0.5", None, -1e-9])
def test_a_point_refuses_another_p(refuses, p):
    refuses(lambda: point(p=p), repr(p), "[0, 1]")


@pytest.mark.parametrize("seed", [-1, 0.0, "0", None, math.nan])
def test_a_point_refuses_another_seed(refuses, seed):
    refuses(lambda: point(seed=seed), repr(seed), ">= 0")


def test_no_augmentation_has_no_probability(refuses):
    refuses(lambda: point("none", 0.5), "none", 0.5)


# Shipped profiles


def _leaves(settings, whole):
    """(name, value, value in `whole`) of each setting."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        yield from _leaves(value, whole[name])
        if not isinstance(value, dict):
            yield name, value, whole[name]


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_profile_is_one_and_called_as_its_file(name):
    assert Profile.load(name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_what_its_file_says(name):
    profile, settings = Profile.load(name), settings_of(name)
    assert settings.pop("profile") == profile.name == name
    extended = settings.pop("extends", None)
    for key, value in settings.items():
        whole = getattr(profile, key)
        for part, own, found in _leaves(value, whole) if extended else [(key, value, whole)]:
            assert own == found, part
    # What a processor can afford is another study than the whole data set's.
    assert (profile.subset is None) == (name != "photographs")
    assert Profile.load(str(FOLDER / f"{name}.yaml")) == profile


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("digits", 125),
        ("cifar10", 3 + 6 * 10 * 3),
        ("cifar10-resnet50", 183),
        ("cifar10-resnet50-short", 183),
    ],
)
def test_the_size_of_a_grid(name, size):
    assert len(grid(Profile.load(name))) == size


@pytest.mark.parametrize("name", SHIPPED)
def test_a_grid_is_the_product_of_its_axes(name):
    profile = Profile.load(name)
    axes, points = profile.grid, grid(profile)
    wanted = {
        ("none" if p == 0 else augmentation, float(p), seed)
        for augmentation in axes["augmentation"]
        for p in axes["p"]
        for seed in axes["seed"]
    }
    found = [(point.augmentation, point.p, point.seed) for point in points]
    assert Counter(found) == Counter(wanted)
    assert {(point.dataset, point.network) for point in points} == {
        (profile.dataset, profile.network)
    }
    assert len({str(point) for point in points}) == len(points)


@pytest.mark.parametrize("name", SHIPPED)
def test_whatever_of_a_grid_is_made_first_is_a_study(name):
    """All augmentations at p 0, .5 and 1 for one seed, then the other seeds, then the other p."""
    axes, points = Profile.load(name).grid, grid(Profile.load(name))
    a, p, s = (len(axes[axis]) for axis in ("augmentation", "p", "seed"))
    for number, seed in enumerate(axes["seed"]):
        part = points[number * (2 * a + 1) : (number + 1) * (2 * a + 1)]
        assert [(one.p, one.seed) for one in part] == [
            (0, seed), *[(0.5, seed)] * a, *[(1, seed)] * a
        ]  # fmt: skip
        assert {one.augmentation for one in part} == {"none", *axes["augmentation"]}
    rest = points[s * (2 * a + 1) :]
    for start in range(0, len(rest), a * s):  # a p is whole before the next one
        part = rest[start : start + a * s]
        assert len({one.p for one in part}) == 1
        assert len(part) == a * s
    # No end of the dial is left for later: half of the other p lie spread over it.
    half = sorted({one.p for one in rest[: a * s * ((p - 3) // 2)]})
    assert all(any(abs(one - q) < 0.3 for q in [0, 0.5, 1, *half]) for one in axes["p"])


def test_a_profile_that_extends_another_has_its_settings_but_for_its_own(tmp_path, refuses):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nprofile: mine\ntraining: {epochs: 3}\ngrid: {p: [0, 1]}\n")
    mine, base = Profile.load(path), Profile.load("digits")
    assert mine.name == "mine"
    assert mine.training == base.training | {"epochs": 3}
    assert mine.grid == base.grid | {"p": [0, 1]}
    for section in ("measures", "augmentations", "sweep"):
        assert getattr(mine, section) == getattr(base, section)
    # It may extend a file of one's own, and so on.
    (tmp_path / "next.yaml").write_text(f"extends: {path}\nprofile: next\nnetwork: resnet9\n")
    following = Profile.load(tmp_path / "next.yaml")
    assert (following.training, following.network) == (mine.training, "resnet9")
    for text, said in {
        "extends: nothing\nprofile: x\n": "nothing",
        "extends: digits\nprofile: x\ntraining: {epoch: 3}\n": "epoch",
        "extends: digits\nprofile: x\ntraining: 3\n": "training",
        "extends: mine\nprofile: x\n": "itself",
        "extends: 3\nprofile: x\n": "3",
        "extends: digits\ntraining: {epochs: 3}\n": "profile",
    }.items():
        path.write_text(text)
        refuses(lambda: Profile.load(path), said)
    for one, other in (("a", "b"), ("b", "a")):
        text = f"extends: {tmp_path / other}.yaml\nprofile: {one}\n"
        (tmp_path / f"{one}.yaml").write_text(text)
    refuses(lambda: Profile.load(tmp_path / "a.yaml"), "itself")


@pytest.mark.parametrize("name", SHIPPED)
def test_jobs_partition_the_grid(name):
    profile = Profile.load(name)
    cut = jobs(profile)
    assert [point for points in cut.values() for point in points if point.p == 0] == [
        point for point in grid(profile) if point.p == 0
    ]
    assert Counter(point for points in cut.values() for point in points) == Counter(grid(profile))
    for points in cut.values():
        assert 1 <= len(points) <= profile.sweep["points_per_job"]
        # What the notebook is given: lists of augmentations, p and seeds, each with each.
        lists = [{getattr(q, axis) for q in points} for axis in ("augmentation", "p", "seed")]
        assert len(points) == math.prod(map(len, lists))
        assert len(lists[0]) == 1 or len(cut) == 2
    at_zero = [points[0].p == 0 for points in cut.values()]
    assert at_zero == sorted(at_zero, reverse=True)


@given(
    p=st.lists(st.integers(0, 10), min_size=1, unique=True),
    augmentation=st.lists(
        st.sampled_from(["classic", "mixup", "mixup+classic"]), min_size=1, unique=True
    ),
    seed=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    size=st.integers(1, 12),
)
def test_jobs_of_any_grid(tmp_path_factory, p, augmentation, seed, size):
    settings = settings_of("digits")
    axes = {"p": [q / 10 for q in p], "augmentation": augmentation, "seed": seed}
    settings |= {"grid": axes, "sweep": settings["sweep"] | {"points_per_job": size}}
    path = tmp_path_factory.mktemp("profile") / "any.yaml"
    path.write_text(yaml.safe_dump(settings))
    profile = Profile.load(path)
    points = grid(profile)
    positive = [q for q in p if q]
    assert len(points) == len(seed) * ((0 in p) + len(augmentation) * len(positive))
    cut = jobs(profile)
    assert Counter(point for part in cut.values() for point in part) == Counter(points)
    if size >= len(points):  # all at once, but for p = 0
        assert len(cut) == (0 in p) + bool(positive)
        return
    # All p of as many seeds as the size allows or, where it is smaller, as many p of one seed.
    dial = len(positive) or 1
    together = max(1, size // dial)
    parts = math.ceil(len(positive) / size) if together == 1 else min(1, len(positive))
    chunks = math.ceil(len(seed) / together)
    assert len(cut) == chunks * ((0 in p) + len(augmentation) * parts)
    for part in cut.values():
        assert len({one.seed for one in part}) <= together


def test_the_same_p_twice_is_one_point(altered):
    axes = {"grid.seed": [4], "grid.augmentation": ["classic", "mixup"]}
    path = altered(**axes, **{"grid.p": [0, 0.0, 0.3, 0.1 + 0.2, 1, 1.0]})
    assert sorted(point.p for point in grid(Profile.load(path))) == [0, 0.3, 0.3, 1, 1]


# Versions


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"training.epochs": 21}, True),
        ({"training.weight_decay": 0.0}, True),
        ({"measures.performance.eps": [0.25]}, {"performance", "distances", "checks"}),
        ({"measures.stress.neighbours": 33}, {"stress"}),
        ({"measures.influence.test_points": 100}, {"influence", "trust"}),
        ({"measures.trust.left_out": 11}, {"trust"}),
        ({"network": "resnet9"}, True),
        ({"training.precision": "bf16"}, True),
        ({"sweep.batch": 100}, False),
        ({"sweep.compile": True}, False),
        ({"dataset": "mnist"}, True),
        ({"subset": [100, 50]}, True),
        ({"augmentations.mixup": ["Mixup", {"alpha": 2.0}]}, True),
        ({"augmentations.classic": ["Classic", {"images": "colour"}]}, False),
        ({"augmentations.new": ["Flip", {}]}, False),
        ({"grid.augmentation": ["mixup"]}, False),
        ({"grid.seed": [7]}, False),
        ({"grid.p": [0, 1]}, False),
        ({"sweep.points_per_job": 1}, False),
        ({"profile": "other"}, False),
    ],
)
def test_the_version_follows_the_settings_that_matter(altered, change, matters):
    """Of a measure, beside its own: those of the network, and of what it builds on."""
    one, same = Profile.load("digits"), Profile.load(altered())
    other = Profile.load(altered(**change))
    for name in one.all_measures:
        assert one.version(name, "mixup") == same.version(name, "mixup")
    changed = {n for n in one.all_measures
               if other.version(n, "mixup") != one.version(n, "mixup")}  # fmt: skip
    everything = set(one.all_measures)
    assert changed == (matters if isinstance(matters, set) else everything if matters else set())


OTHER = ["Generative", {"kind": "wgp", "seed": 0, "steps": 9}]


@pytest.mark.parametrize(
    ("change", "network", "generator"),
    [
        ({"training.epochs": 21}, True, False),
        ({"network": "resnet9"}, True, False),
        ({"subset": [100, 50]}, True, True),
        ({"augmentations.gan-ns": OTHER}, True, True),
        ({"augmentations.gan-wgp": OTHER}, False, False),
        ({"augmentations.mixup": ["Mixup", {"alpha": 2.0}]}, False, False),
        ({"measures.performance.eps": [0.25]}, False, False),
    ],
)  # fmt: skip
def test_networks_and_generators_follow_their_own_settings(altered, change, network, generator):
    one, other = Profile.load("digits"), Profile.load(altered(**change))
    assert (one.training_version("gan-ns") != other.training_version("gan-ns")) is network
    assert (one.generator_version("gan-ns") != other.generator_version("gan-ns")) is generator


def test_versions_tell_augmentations_apart():
    profile = Profile.load("digits")
    names = ["none", *profile.grid["augmentation"], "mixup+classic"]
    for measure in profile.all_measures:
        assert len({profile.version(measure, name) for name in names}) == len(names)


# Augmentations that need a generator


class Painter(torch.nn.Module):
    """A stand-in for a trained generator: it paints every image in one grey."""

    shape, classes = (1, 8, 8), 10

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, labels, *, generator):
        return torch.full((len(labels), *self.shape), self.level)


def test_a_generative_factor_is_given_its_own_generator():
    profile = Profile.load("digits")
    assert profile.generators("gan-ns") == ["gan-ns"]
    assert profile.generators("classic+gan-wgp+mixup+gan-ns") == ["gan-wgp", "gan-ns"]
    assert profile.generators("classic+mixup") == profile.generators("none") == []
    levels = {"gan-ns": 0.25, "gan-wgp": 0.75}
    sample = Sample(torch.zeros(6, 1, 8, 8), torch.eye(10)[:6])
    for name in ("gan-ns", "gan-wgp", "gan-wgp+gan-ns"):
        made = recipes.augmentation(profile, name, generator=lambda factor: Painter(levels[factor]))
        drawn = made(sample, torch.Generator().manual_seed(0))
        assert (drawn.x == levels[name.split("+")[-1]]).all()
        assert torch.equal(drawn.y, sample.y)


# Augmentations of a profile


class Half(Augmentation):
    def draw(self, sample, generator):
        return Sample(sample.x / 2, sample.y)


class Rise(Augmentation):
    def draw(self, sample, generator):
        return Sample((sample.x + 1) / 2, sample.y)


@pytest.fixture
def marked(altered, monkeypatch):
    """A profile whose augmentations "half" and "rise" show what was applied and in which order."""
    monkeypatch.setattr(library, "Half", Half, raising=False)
    monkeypatch.setattr(library, "Rise", Rise, raising=False)
    kinds = {"half": ["Half", {}], "rise": ["Rise", {}]}
    return Profile.load(altered(augmentations=kinds, **{"grid.augmentation": ["half+rise"]}))


def levels(profile, name, p, n):
    sample = Sample(torch.zeros(n, 1, 1, 1), torch.ones(n, 1))
    drawn = recipes.augmentation(profile, name, p)(sample, torch.Generator().manual_seed(0))
    return Counter(drawn.x.flatten().tolist())


def test_a_sum_applies_its_first_name_first(marked):
    assert levels(marked, "half+rise", 1, 5) == {0.5: 5}  # (0 / 2 + 1) / 2
    assert levels(marked, "rise+half", 1, 5) == {0.25: 5}  # (0 + 1) / 2 / 2
    assert levels(marked, "rise+half+rise", 1, 5) == {0.625: 5}


def test_every_factor_of_a_sum_has_its_own_coin_at_p(marked):
    p, n = 0.3, 4000
    found = levels(marked, "rise+rise", p, n)
    expected = {0: (1 - p) ** 2, 0.5: 2 * p * (1 - p), 0.75: p**2}
    assert found.keys() == expected.keys()
    counts = [found[level] for level in expected]
    assert chisquare(counts, [n * share for share in expected.values()]).pvalue > 1e-4


def test_a_sum_of_the_shipped_augmentations():
    profile = Profile.load("digits")
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sample = Sample(x, torch.eye(16))
    for names, factors in [
        ("classic+mixup", [Classic("digits"), Mixup(1.0)]),
        ("mixup+classic", [Mixup(1.0), Classic("digits")]),
    ]:
        drawn = recipes.augmentation(profile, names)(sample, torch.Generator().manual_seed(2))
        stream, by_hand = torch.Generator().manual_seed(2), sample
        for factor in factors:
            by_hand = factor(by_hand, stream)
        assert torch.equal(drawn.x, by_hand.x)
        assert torch.equal(drawn.y, by_hand.y)


def test_no_augmentation_is_the_identity():
    profile = Profile.load("digits")
    for name in ("none", "classic", "mixup", "mixup+classic"):
        assert isinstance(recipes.augmentation(profile, name, 0), Identity)


def test_a_profiles_point_checks_its_augmentation(refuses):
    profile = Profile.load("digits")
    assert profile.point("mixup+classic", 0.5, 1) == Point(
        "digits", "small_cnn", "mixup+classic", 0.5, 1
    )
    assert profile.point("mixup", 0, 1) == profile.point("none", 0, 1)
    for p in (0, 0.5):
        refuses(lambda p=p: profile.point("cutout", p, 0), "cutout", "classic", "mixup")
        refuses(lambda p=p: profile.point("classic+", p, 0), "''", "classic", "mixup")


# What a profile must not be


def test_an_unknown_profile(refuses):
    refuses(lambda: Profile.load("digit"), "'digit'", *FILES)
    refuses(lambda: Profile.load("no/such.yaml"), "no/such.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training.epoch": 3}, ["training", "'epoch'", "epochs"]),
        ({"training.epochs": None}, ["training", "'epochs'", "missing"]),
        ({"grid.seed": None}, ["grid", "'seed'", "missing"]),
        ({"measures.stress.radius": 1}, ["stress", "'radius'", "neighbours"]),
        ({"optimizer": "adam"}, ["'optimizer'", "training"]),
        ({"measures.influence": None}, ["trust builds on influence"]),
        ({"dataset": "digit"}, ["'digit'", "digits", "cifar10"]),
        ({"network": "vgg"}, ["'vgg'", "small_cnn", "resnet50"]),
        ({"grid.augmentation": ["clasic"]}, ["'clasic'", "classic", "mixup"]),
        ({"grid.augmentation": ["classic+mixing"]}, ["'mixing'", "classic", "mixup"]),
        ({"grid.p": [0, 1.5]}, ["grid: p", "1.5", "equal to 1"]),
        ({"grid.p": [0, -0.25]}, ["grid: p", "-0.25", "equal to 0"]),
        ({"grid.p": [math.nan]}, ["grid: p", "nan", "finite"]),
        ({"grid.p": ["half"]}, ["grid: p", "'half'", "number"]),
        ({"augmentations.classic": ["Clasic", {}]}, ["Clasic"]),
        ({"augmentations.mixup": ["Mixup", {"alfa": 1}]}, ["alfa"]),
        ({"augmentations.mixup": ["Mixup", {"alpha": -1}]}, ["-1", "> 0"]),
        ({"augmentations.mixup": ["Mixup", {"per": "pixel"}]}, ["'pixel'", "example", "batch"]),
        ({"augmentations.mixup": ["Mixup", 1.0]}, ["'mixup'", "1.0"]),
        ({"augmentations.mixup": 3}, ["'mixup'", "3"]),
        ({"augmentations.gan-ns": ["Generative", {"kind": "ns", "seed": 0}]}, ["gan-ns", "steps"]),
        (
            {"augmentations.gan-ns": ["Generative", {"kind": "gan", "seed": 0, "steps": 9}]},
            ["gan-ns", "'gan'", "ns, wgp"],
        ),
        (
            {"augmentations.gan-ns": ["Generative", {"kind": "ns", "seed": 0, "steps": 9, "z": 1}]},
            ["gan-ns", "'z'"],
        ),
        ({"training": [1, 2]}, ["training"]),
    ],
)
def test_a_setting_that_makes_no_sense(altered, refuses, change, said):
    path = altered(**change)
    refuses(lambda: Profile.load(path), *said)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "profile: [unclosed", "just words"])
def test_a_file_that_is_no_profile(tmp_path, refuses, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    refuses(lambda: Profile.load(str(path)), "broken.yaml")


@pytest.mark.parametrize("seed", [-1, 0.5, "a"])
def test_a_seed_that_makes_no_sense(altered, refuses, seed):
    path = altered(**{"grid.seed": [0, seed]})
    refuses(lambda: Profile.load(path), "grid: seed", repr(seed))


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_job_holds_a_whole_number_of_points(altered, refuses, size):
    path = altered(**{"sweep.points_per_job": size})
    refuses(lambda: Profile.load(path), "sweep: points_per_job", size)


def test_a_path_may_be_a_path(altered):
    assert Profile.load(Path(altered())) == Profile.load(altered())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "../elsewhere"}, ["profile", "'../elsewhere'"]),
        ({"profile": "a{b}"}, ["profile", "'a{b}'"]),
        ({"profile": True}, ["profile", "True"]),
        ({"augmentations.a/b": ["Flip", {}]}, ["augmentations", "a/b"]),
        ({"augmentations.on": ["Flip", {}]}, ["augmentations", "on"]),
        ({"augmentations.1e3": ["Flip", {}]}, ["augmentations", "1000.0"]),
        ({"augmentations.x": ["Sample", {}]}, ["'x'", "Sample", "no class"]),
        ({"augmentations.x": ["Transform", {}]}, ["'x'", "Transform", "no class"]),
        ({"augmentations.x": ["with_probability", {}]}, ["'x'", "no class"]),
        ({"augmentations.x": ["Generative", {"kind": "ns", "seed": 0, "steps": 9,
                                             "learning_rate": "fast"}]}, ["'x'", "'fast'"]),
        ({"augmentations.x": ["Generative", {"kind": "ns", "seed": 0.5, "steps": 9}]}, ["0.5"]),
        ({"augmentations.mixup": ["Mixup", {"alpha": "1"}]}, ["mixup", "'1'"]),
        ({"subset": 100}, ["subset", "100"]),
        ({"subset": [100]}, ["subset"]),
        ({"dataset": 3}, ["dataset", "3"]),
        ({"grid": [0]}, ["grid", "[0]"]),
        ({"sweep.remake": "no"}, ["sweep: remake", "'no'"]),
        ({"measures.performance.eps": []}, ["measures: performance: eps", "[]"]),
    ],
)  # fmt: skip
def test_a_setting_of_the_wrong_kind_is_a_line(altered, refuses, change, said):
    path = altered(**change)
    refuses(lambda: Profile.load(path), *said)


def test_a_profile_extends_one_beside_it(tmp_path, monkeypatch):
    """Relative to the file that says so, wherever one stands."""
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "base.yaml").write_text("extends: digits\nprofile: base\ntraining: {epochs: 3}\n")
    (folder / "one.yaml").write_text("extends: base\nprofile: one\n")
    (folder / "deep" / "two.yaml").write_text("extends: ../base.yaml\nprofile: two\n")
    monkeypatch.chdir(tmp_path)
    for name in ("one.yaml", "deep/two.yaml"):
        assert Profile.load(folder / name).training["epochs"] == 3


def test_a_folder_and_a_file_in_another_encoding_are_named(tmp_path, refuses):
    (tmp_path / "folder.yaml").mkdir()
    refuses(lambda: Profile.load(tmp_path / "folder.yaml"), "folder.yaml", "folder")
    (tmp_path / "latin.yaml").write_bytes("profile: \xe9t\xe9\n".encode("latin-1"))
    refuses(lambda: Profile.load(tmp_path / "latin.yaml"), "latin.yaml", "UTF-8")


def test_profiles_are_read_without_torch():
    code = (
        "import sys; from lib.study.profile import Profile; from lib.study.grid import jobs;"
        "jobs(Profile.read('cifar10')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_two_and_two_point_nought_are_one_setting(altered):
    one, other = (
        Profile.load(altered(**{"measures.stress.clean": [0.5, two]})) for two in (2, 2.0)
    )
    assert one.version("stress", "mixup") == other.version("stress", "mixup")
