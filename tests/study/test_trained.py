"""Networks and generators, trained once and loaded: of the same code and recipe alone."""

import json

import pytest
import torch
from safetensors import safe_open

from lib import attacks, checkpoint, data, records, training
from lib import augmentation as library
from lib.augmentation.algebra import Augmentation, Sample
from lib.study import trained
from lib.study.profile import Profile
from tests.study.test_point import equal, files, small_profile, weights


def test_a_subset_is_the_first_so_many_images(tmp_path):
    whole, part = data.load("digits"), trained.dataset(small_profile(tmp_path))
    assert (len(part.train_images), len(part.test_images)) == (200, 60)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        found = getattr(part, name)
        assert torch.equal(found, getattr(whole, name)[: len(found)])
    assert trained.dataset(Profile.load("digits")).checksum == whole.checksum


# Pairs: initialisation and data order depend on the seed alone


class Eye(Augmentation):
    """Sees each batch before the other factors and hands it on."""

    seen = []  # noqa: RUF012

    def draw(self, sample, generator):
        Eye.seen.append(sample.x.clone())
        return sample


class Greedy(Augmentation):
    """Changes the images and takes random numbers by the handful."""

    def draw(self, sample, generator):
        torch.rand(1 + len(Eye.seen), generator=generator, device=sample.x.device)
        return Sample(1 - sample.x, sample.y)


def test_two_augmentations_at_one_seed_share_initialisation_and_order(house, tmp_path, monkeypatch):
    for kind in (Eye, Greedy):
        monkeypatch.setattr(library, kind.__name__, kind, raising=False)
    profile = small_profile(
        tmp_path,
        augmentations={"eye": ["Eye", {}], "greedy": ["Greedy", {}], "mixup": ["Mixup", {}]},
        **{"grid.augmentation": ["eye"]},
    )
    train = training.train

    def watched(model, *arguments, **settings):
        Eye.seen.clear()
        starts.append({k: v.clone() for k, v in model.state_dict().items()})
        history = train(model, *arguments, **settings)
        orders.append(torch.cat(Eye.seen))
        return history

    monkeypatch.setattr(training, "train", watched)
    starts, orders, ends = [], [], []
    for name, seed in [("eye", 0), ("eye+greedy", 0), ("eye+mixup", 0), ("eye", 1)]:
        ends.append({k: v.clone() for k, v in weights(profile, name, 1, seed).items()})
    for start in starts[1:3]:
        assert equal(start, starts[0])
    for order in orders[1:3]:
        assert torch.equal(order, orders[0])
    assert not equal(starts[3], starts[0])
    assert not torch.equal(orders[3], orders[0])
    assert not equal(ends[1], ends[0])  # the augmentations did something
    assert not equal(ends[2], ends[0])


# Checkpoints


def test_a_network_is_trained_once(house, tmp_path, capsys):
    profile = small_profile(tmp_path)
    first = weights(profile, "classic", 0.25)
    (checkpoint,) = files(records.runs(), "*.safetensors")
    before = checkpoint.stat()
    assert equal(weights(profile, "classic", 0.25), first)
    assert checkpoint.stat().st_mtime_ns == before.st_mtime_ns
    # A live point of a chapter writes no record.
    assert files(records.runs(), "*") == [checkpoint]
    assert not records.results().exists()
    assert capsys.readouterr().err == ""


def test_the_network_is_on_eval_mode_trained_or_loaded(house, tmp_path):
    profile = small_profile(tmp_path)
    for _ in range(2):
        point = profile.point("classic", 1, 0)
        assert not trained.train_or_load(profile, point, progress=False).training


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
    ],
    ids=["truncated", "empty", "foreign"],
)
def test_a_damaged_checkpoint_is_named_and_made_again(house, tmp_path, capsys, damage):
    profile = small_profile(tmp_path)
    first = weights(profile, "mixup", 0.25)
    (checkpoint,) = files(records.runs(), "*.safetensors")
    damage(checkpoint)
    assert equal(weights(profile, "mixup", 0.25), first)
    said = capsys.readouterr().err
    assert str(checkpoint) in said
    assert len(said.strip().splitlines()) == 1
    assert equal(weights(profile, "mixup", 0.25), first)
    assert capsys.readouterr().err == ""


def test_the_checkpoint_of_another_point_is_named_and_made_again(house, tmp_path, capsys):
    profile = small_profile(tmp_path)
    first = weights(profile, "mixup", 0.25)
    (checkpoint,) = files(records.runs(), "*.safetensors")
    weights(profile, "classic", 0.25)
    (other,) = set(files(records.runs(), "*.safetensors")) - {checkpoint}
    checkpoint.write_bytes(other.read_bytes())
    capsys.readouterr()
    assert equal(weights(profile, "mixup", 0.25), first)
    assert str(checkpoint) in capsys.readouterr().err


@pytest.mark.parametrize("module", ["training", "augmentation", "seeds", "models"])
@pytest.mark.parametrize("remake", [True, False])
def test_a_network_is_trained_again_when_what_trains_it_changes(
    house, tmp_path, engine, trainings, module, remake
):
    """Were the old weights kept, new records would describe them under the new code's name.

    Every module that has a say in the weights counts: architecture and initialisation (models)
    as well as the loop. Recorded points may stand, but no new one is measured on old weights.
    """
    profile = small_profile(tmp_path, **{"sweep.remake": remake})
    weights(profile, "mixup", 1)
    weights(profile, "mixup", 1)
    assert len(trainings) == 1
    engine(module)
    weights(profile, "mixup", 1)
    assert len(trainings) == 2


# Generators


def test_a_generator_is_trained_once_and_for_every_seed(house, tmp_path, capsys):
    home = house()
    profile = small_profile(tmp_path)
    first = trained.generator(profile, "gan-ns", progress=False)
    ((path, *_), before) = files(home, "gan-ns.safetensors"), path_states(home)
    for seed in (0, 1):
        trained.train_or_load(profile, profile.point("gan-ns", 0.5, seed), progress=False)
    again = trained.generator(profile, "gan-ns", progress=False)
    assert again.digest() == first.digest()
    assert [past["seconds"] for past in again.history] == [
        past["seconds"] for past in first.history
    ]
    assert {name: state for name, state in path_states(home).items() if name in before} == before

    # Damaged, it is named, set aside and trained again to the same weights.
    path.write_bytes(path.read_bytes()[:-100])
    assert trained.generator(profile, "gan-ns", progress=False).digest() == first.digest()
    assert str(path) in capsys.readouterr().err
    assert path.with_suffix(".refused").exists()


def path_states(home):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files(home, "gan-ns.*")}


def test_a_network_knows_its_generator(house, tmp_path, capsys):
    """Another generator of the same name makes another training: no checkpoint is mixed up."""
    house()
    profile = small_profile(tmp_path)
    before = weights(profile, "gan-ns", 1)
    path = trained.generator_path(profile, "gan-ns")
    other = trained.generator(profile, "gan-wgp", progress=False)
    recipe = json.loads(safe_open(path, "pt").metadata()["recipe"])
    parts = {"averaged": other.state_dict(), "previews": {"images": other.previews}}
    checkpoint.save(path, parts, recipe, other.history)
    after = weights(profile, "gan-ns", 1)
    assert "augmentation differ" in capsys.readouterr().err
    assert not equal(before, after)


def test_only_grids_that_need_generators_have_them(tmp_path):
    assert small_profile(tmp_path).generators() == []
    both = {"grid.augmentation": ["classic+gan-wgp", "gan-ns", "gan-wgp"]}
    assert small_profile(tmp_path, **both).generators() == ["gan-ns", "gan-wgp"]
    assert small_profile(tmp_path, **both, **{"grid.p": [0]}).generators() == []


# An augmentation that attacks the network in training


ATTACK = {"augmentations.adversarial": ["Adversarial", {"eps": 0.5, "steps": 2, "norm": "l2"}]}


def test_adversarial_training_is_an_augmentation_of_the_study(house, tmp_path):
    """Its draw in the eyes of the trained network: attacked within the radius, labels kept."""
    profile = small_profile(tmp_path, **ATTACK, **{"training.epochs": 8})
    own = trained.subject(profile, profile.point("adversarial", 1, 0), progress=False)
    drawn = own.augmentation(own.test, own.generator("draw"))
    moved = (drawn.x - own.test.x).flatten(1).norm(dim=1)
    assert 0 < moved.max() <= 0.5 + 1e-6
    assert (drawn.y == own.test.y).all()
    plain = trained.subject(profile, profile.point("none", 0, 0), progress=False)
    risk = {one.point.augmentation: attacks.risk(one.model, one.adversarial(0.5, 20), one.y)
            for one in (own, plain)}  # fmt: skip
    assert risk["adversarial"] < risk["none"]
    # Half of the examples at p = 1/2, and composed with others as any.
    for name, p in (("adversarial", 0.5), ("classic+adversarial", 1)):
        weights(profile, name, p)


def test_what_attacks_a_network_has_to_be_given_one(tmp_path, refuses):
    profile = small_profile(tmp_path, **ATTACK)
    assert profile.attacks("classic+adversarial")
    assert not profile.attacks("classic+mixup")
    refuses(lambda: trained.augmentation(profile, "adversarial"), "'adversarial'", "model=")
    wrong = {"augmentations.adversarial": ["Adversarial", {"eps": -1, "steps": 2}]}
    refuses(lambda: small_profile(tmp_path, **wrong), "adversarial", "eps", "-1")
