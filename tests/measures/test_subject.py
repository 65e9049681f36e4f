"""What the measures of a subject share, what each may look at, and how long it takes."""

import copy
from dataclasses import replace

import pytest
import torch

from lib import measures
from lib.augmentation.algebra import Identity
from lib.measures import Cost, last_layer
from lib.measures.last_layer import LastLayer
from lib.measures.subject import Subject
from lib.models import initialise
from lib.study import trained
from tests.study.test_point import small_profile

MEASURES = measures.names()
N_TRAIN, N_TEST = 200, 60


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return small_profile(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def network(profile):
    """Not trained: what is asked of it here holds of any."""
    return initialise(trained.network(profile), 0).eval()


@pytest.fixture
def subject(profile, network):
    """`subject(**changes)`: a new one, with what measures need; `changes` are of its profile."""

    def make(**changes):
        own = replace(profile, **changes)
        images, point = trained.dataset(own), own.point("none", 0, 0)
        found = Subject(own, point, network, images, Identity())
        found.control = Subject(own, point, network, images, Identity())
        found.rival = copy.deepcopy(network)
        return found

    return make


def rows_of(name, subject):
    return measures.module(name).rows(subject, subject.settings(name))


def told(rows):
    """Rows as text: a missing value equals itself."""
    return [repr(row) for row in rows]


class Seen:
    """Images that go through a network: those whose gradient is asked for, and the others."""

    def __init__(self, model):
        self.attacked = self.predicted = 0
        self._hook = model.register_forward_pre_hook(self._count)

    def _count(self, _, arguments):
        if torch.is_grad_enabled():
            self.attacked += len(arguments[0])
        else:
            self.predicted += len(arguments[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hook.remove()


# What is shared


def test_a_view_is_made_once_a_subject(subject):
    one, other = subject(), subject()
    made = []

    def kind(subject):
        made.append(subject)
        return len(made)

    assert [one.view(kind), one.view(kind), other.view(kind), one.view(kind)] == [1, 1, 2, 1]
    assert made == [one, other]
    assert one.view(id) == id(one)


def test_influence_and_trust_solve_the_last_layer_once(subject, monkeypatch):
    solve, solved = last_layer.s_test, []

    def counted(*arguments, method, **more):
        solved.append(method)
        return solve(*arguments, method=method, **more)

    monkeypatch.setattr(last_layer, "s_test", counted)
    own = subject()
    own.control = None
    rows_of("influence", own)
    rows_of("trust", own)
    assert sorted(solved) == ["exact", "identity"]
    view = own.view(LastLayer)
    assert view.drawn is view.drawn
    assert view.tests is view.tests


def test_trust_is_the_same_whether_influence_was_measured_before(subject):
    alone, after = subject(), subject()
    rows_of("influence", after)
    assert told(rows_of("trust", alone)) == told(rows_of("trust", after))


def test_images_are_attacked_once(subject, network):
    own = subject()
    with Seen(network) as seen:
        first = own.adversarial(0.5, 3)
        assert seen.attacked == 3 * N_TEST
        assert own.adversarial(0.5, 3) is first
        assert seen.attacked == 3 * N_TEST
        own.adversarial(0.5, 4)
        assert seen.attacked == 7 * N_TEST


@pytest.mark.parametrize("name", MEASURES)
def test_the_batch_has_no_say_in_the_rows(subject, profile, name):
    """The study's setting for a device's memory: what it cuts is put together again."""
    rows = rows_of(name, subject())
    cut = rows_of(name, subject(sweep=profile.sweep | {"batch": 7}))
    assert len(rows) == len(cut)
    for one, other in zip(rows, cut, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-5, nan_ok=True)
        assert one["examples"] == other["examples"]


# What a measure may look at


class Poison:
    """What must not be touched."""

    def touched(self, *_):
        raise AssertionError("a measure looks at a network that it does not say it needs")

    __getattr__ = __bool__ = __call__ = touched


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_knows_no_other_settings_than_its_version_does(subject, profile, name):
    """Nor another network than it says: else a record would outlive a change of them."""
    facts = measures.facts(name)
    own = {part: profile.measures[part] for part in (name, *facts.after)}
    alone = subject(measures=own)
    for need in {"control", "rival"} - set(facts.needs):
        setattr(alone, need, Poison())
    assert told(rows_of(name, alone)) == told(rows_of(name, subject()))


@pytest.mark.parametrize("name", MEASURES)
def test_the_rows_of_a_measure_go_into_its_own_tables(subject, name):
    rows = rows_of(name, subject())
    assert {row["table"] for row in rows} == set(measures.facts(name).tables)
    for row in rows:
        assert type(row["value"]) is float
        assert "trust" not in row  # which has a table of its own
        assert not {"profile", "seed", "code", "stage"} & {*row}  # the study says these


# How long it takes, and what does not fit


def seconds(name, profile, **cost):
    cost = {"attacked": 0.0, "predicted": 0.0} | cost
    whole = Cost(train=N_TRAIN, test=N_TEST, measures=profile.measures, **cost)
    return measures.module(name).seconds(profile.measures[name], whole)


@pytest.mark.parametrize("name", ["performance", "stress", "influence", "distances"])
def test_steps_of_attacks_are_estimated_as_they_are_made(subject, profile, network, name):
    """Of images through the network, at a second each; what performance attacked is there."""
    own = subject()
    own.control = None
    if name != "performance":
        rows_of("performance", own)
    with Seen(network) as seen:
        rows_of(name, own)
    slack = 0.3 if name == "distances" else 0  # to turn round costs a step as well
    assert seen.attacked == pytest.approx(seconds(name, profile, attacked=1.0), rel=slack)


def test_predictions_of_stress_are_estimated_as_they_are_made(subject, profile, network):
    """The neighbours; beside them each centre is predicted itself."""
    own = subject()
    with Seen(network) as seen:
        rows_of("stress", own)
    neighbours = seconds("stress", profile, predicted=1.0)
    radii = sum(len(profile.measures["stress"][c]) for c in ("clean", "sphere", "adversarial"))
    assert neighbours == N_TEST * radii * profile.measures["stress"]["neighbours"]
    assert neighbours <= seen.predicted <= neighbours + 2 * N_TEST * radii


@pytest.mark.parametrize("images", [10, N_TEST, 1000])
def test_checks_take_no_longer_than_estimated(subject, profile, network, images):
    """No more images than there are; an image that is fooled at once saves the rest."""
    known = profile.measures | {"checks": profile.measures["checks"] | {"images": images}}
    own = subject(measures=known)
    rows_of("performance", own)
    expected = seconds("checks", own.profile, attacked=1.0)
    with Seen(network) as seen, Seen(own.rival) as elsewhere:
        rows_of("checks", own)
    assert 0 < seen.attacked + elsewhere.attacked <= expected * 1.2
    assert expected == seconds("checks", profile, attacked=1.0) * min(images, N_TEST) / 20


@pytest.mark.parametrize("name", MEASURES)
def test_seconds_are_linear_in_what_an_image_takes(profile, name):
    one = seconds(name, profile, attacked=2.0), seconds(name, profile, predicted=3.0)
    assert seconds(name, profile, attacked=2.0, predicted=3.0) == pytest.approx(sum(one))
    assert seconds(name, profile, attacked=4.0) == pytest.approx(2 * one[0])
    assert seconds(name, profile) == 0


def test_an_exact_solve_that_does_not_fit_is_refused_before_training(
    profile, network, monkeypatch, refuses
):
    """Three matrices of d x d in double precision; conjugate gradients need none."""
    d = sum(parameter.numel() for parameter in network.head.parameters())
    check = measures.module("influence").check
    exact, cg = (profile.measures["influence"] | {"method": name} for name in ("exact", "cg"))
    monkeypatch.setattr(last_layer, "memory", lambda: 24 * d**2)
    check(exact, network)
    monkeypatch.setattr(last_layer, "memory", lambda: 24 * d**2 - 1)
    refuses(lambda: check(exact, network), "influence", "exact", d, "cg")
    check(cg, network)
