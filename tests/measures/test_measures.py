"""The rows of the three measures against computations of their own, in numpy."""

import copy
import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from lib import attacks, measures
from lib.augmentation.algebra import Identity, Sample, changed
from lib.influence.functions import gradient_norms
from lib.influence.functions import influence as influence_scores
from lib.measures.last_layer import LastLayer
from lib.measures.subject import Subject, stratified
from lib.models import build, initialise
from lib.stress import sphere
from lib.study import point as study
from lib.study import trained
from lib.training import to_sample
from tests.study.test_point import small_profile

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def rows_of(measure, subject, *, control=None, rival=None):
    subject.control, subject.rival = control, rival
    return measures.module(measure).rows(subject, subject.settings(measure))


performance, distances, stress, trust = (
    partial(rows_of, name) for name in ("performance", "distances", "stress", "trust")
)


def credibility(subject, rival=None):
    return rows_of("checks", subject, rival=rival)


def influence(subject, control=None):
    return rows_of("influence", subject, control=control)


def last(subject):
    return subject.view(LastLayer)


def with_settings(profile, measure, **settings):
    changed = {measure: profile.measures[measure] | settings}
    return replace(profile, measures=profile.measures | changed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(augmentation, p)`: the trained Subject of a small study of digits."""
    folder = tmp_path_factory.mktemp("measures")
    settings = {
        "training.epochs": 30, "measures.stress.neighbours": 32,
        "measures.stress.adversarial": [0.25, 1.0], "measures.performance.eps": [0.25, 1.0],
    }  # fmt: skip
    profile = small_profile(folder, **settings)
    found = {}

    def subject(augmentation, p):
        if (augmentation, p) not in found:
            point = profile.point(augmentation, p, 0)
            found[augmentation, p] = trained.subject(profile, point, progress=False)
        return found[augmentation, p]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS", str(folder / "runs"))
        yield subject


def wrong(model, x, labels):
    with torch.no_grad():
        return (model(x).argmax(1) != labels).numpy()


def attacked(subject, eps, steps):
    """The study's PGD, as the design states it: start zero, cross-entropy, last iterate, L2."""
    return attacks.pgd(
        subject.model, subject.test.x, subject.y, eps=eps, steps=steps,
        norm="l2", start="zero", loss="ce", keep="last",
    )  # fmt: skip


def pick(rows, **where):
    (row,) = [r for r in rows if all(r.get(name) == value for name, value in where.items())]
    return row


# Performance


@pytest.mark.parametrize("augmentation", ["none", "classic"])
def test_risks_are_counted_by_hand(made, augmentation):
    subject = made(augmentation, 0 if augmentation == "none" else 0.25)
    images = study.dataset(subject.profile)
    x, y = images.test_images.float() / 255, images.test_labels
    rows = performance(subject)
    clean = pick(rows, measure="clean error")
    assert clean["value"] == wrong(subject.model, x, y).mean()
    assert 0 < clean["value"] < 0.9  # of a network that has learnt, and not all
    for eps in (0.25, 1.0):
        for steps in (1, 4):
            found = pick(rows, measure="risk under attack", eps=eps, steps=steps)
            by_hand = wrong(subject.model, attacked(subject, eps, steps), y).mean()
            assert found["value"] == pytest.approx(by_hand, abs=1e-9)
            assert found["examples"] == 60
    assert len(rows) == 5
    risks = {row["value"] for row in rows}
    assert len(risks) > 2  # the settings make a difference


# Distances


@pytest.mark.parametrize("augmentation", ["none", "mixup"])
def test_distances_are_counted_by_hand(made, augmentation):
    subject = made(augmentation, 0 if augmentation == "none" else 1)
    upto, rows = subject.profile.measures["distances"]["upto"], distances(subject)
    known = [attacked(subject, eps, steps) for eps in (0.25, 1.0) for steps in (1, 4)]
    found = attacks.boundary_distance(
        subject.model, subject.test.x, subject.y, steps=2, known=known
    ).numpy()
    curve = [row for row in rows if row["measure"] == "risk within"]
    assert [row["eps"] for row in curve] == pytest.approx(np.linspace(0, upto, 31))
    for row in curve:
        assert row["value"] == pytest.approx((found <= row["eps"] + 1e-9).mean())
    area = pick(rows, measure="mean distance")
    assert area["value"] == pytest.approx(np.minimum(found, upto).mean())
    assert area["upto"] == upto
    for q in QUANTILES:
        ends = [np.quantile(found, q, method=m) for m in ("lower", "higher")]
        assert any(pick(rows, q=q)["value"] == pytest.approx(end) for end in ends)
    assert {row["examples"] for row in rows} == {60}
    assert {row["table"] for row in rows} == {"distances"}
    assert len(rows) == 31 + 1 + len(QUANTILES)


@pytest.mark.parametrize("augmentation", ["none", "classic"])
def test_the_curve_agrees_with_the_other_measures(made, augmentation):
    subject = made(augmentation, 0 if augmentation == "none" else 0.25)
    rows, performances = distances(subject), performance(subject)
    curve = {row["eps"]: row["value"] for row in rows if row["measure"] == "risk within"}
    assert list(curve) == sorted(curve)
    values = np.array(list(curve.values()))
    assert (np.diff(values) >= 0).all()
    assert curve[0.0] == pytest.approx(pick(performances, measure="clean error")["value"])
    assert values[-1] > curve[0.0] + 0.5
    for row in performances:
        if row["attack"] == "pgd":
            assert curve[row["eps"]] >= row["value"]
    radii, step = np.array(list(curve)), 0.05
    area = pick(rows, measure="mean distance")["value"]
    # Monotone: the area lies between its lower and its upper sum.
    assert abs(area - np.trapezoid(1 - values, radii)) <= step * (values[-1] - values[0]) / 2 + 1e-9
    quantiles = [pick(rows, q=q)["value"] for q in QUANTILES]
    assert (np.diff(quantiles) >= 0).all()
    for q, quantile in zip(QUANTILES, quantiles, strict=True):
        assert (values[radii >= quantile] >= q - 1 / 60).all()
        assert (values[radii < quantile] <= q + 1 / 60).all()


def says_one_thing(subject, label=0):
    """The subject with a network that gives every image the same label, and tells it so."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[label] = 1.0
    return Subject(
        subject.profile, subject.point, model, study.dataset(subject.profile), Identity()
    )


def test_distances_that_no_attack_finds_are_missing(made):
    """One label for all: what is wrong is at 0, the others nowhere."""
    subject = says_one_thing(made("none", 0))
    rows = distances(subject)
    error = (subject.y != 0).double().mean().item()
    assert 0.75 < error < 0.95
    for row in rows:
        if row["measure"] == "risk within":
            assert row["value"] == pytest.approx(error)
    assert pick(rows, measure="mean distance")["value"] == pytest.approx(1.5 * (1 - error))
    assert [pick(rows, q=q)["value"] for q in QUANTILES[:-1]] == [0, 0, 0, 0]
    assert np.isnan(pick(rows, q=0.95)["value"])


# Whether the attacks can be believed


def settings_changed(subject, model=None, **checks):
    profile = with_settings(subject.profile, "checks", **checks)
    images = study.dataset(profile)
    return Subject(profile, subject.point, model or subject.model, images, Identity())


def test_rows_of_credibility(made):
    subject, rival = made("none", 0), made("mixup", 1).model
    rows, alone = credibility(subject, rival), credibility(subject)
    said = {(row["measure"], row["eps"], row["by"]) for row in rows}
    assert len(said) == len(rows) == 3 + 2 * 4
    assert said - {(row["measure"], row["eps"], row["by"]) for row in alone} == {
        ("missed", eps, "transfer") for eps in (0.25, 1.0)
    }
    assert len(alone) == len(rows) - 2
    kinds = Counter((measure, eps) for measure, eps, _ in said)
    grey = 0.5 * math.sqrt(64)
    assert kinds == {
        ("no gradient", 0.0): 1, ("random outputs", 0.0): 1, ("short of 1", grey): 1,
        ("missed", 0.25): 4, ("missed", 1.0): 4,
    }  # fmt: skip
    missed = " ".join(by for measure, eps, by in said if (measure, eps) == ("missed", 1.0))
    for words in ("5 queries", "8 iterations", "1 random start", "transfer"):
        assert words in missed  # queries and starts of the settings, twice the most steps
    assert pick(rows, measure="short of 1")["by"].split()[1] == "4"
    for row in rows:
        assert row["table"] == "checks"
        assert row["examples"] == 20
        assert 0 <= row["value"] <= 1
        assert row["warning"] == (row["value"] > row["limit"])
        assert isinstance(row["warning"], bool)
    limits = {row["measure"]: row["limit"] for row in rows}
    assert limits["random outputs"] == 0
    assert all(0 < limits[kind] < 0.05 for kind in ("no gradient", "missed", "short of 1"))
    assert rows == credibility(subject, rival)


class Rounded(torch.nn.Module):
    """The network sees images rounded to tenths, which have no gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((10 * x).round() / 10)


def test_transfer_is_counted_by_hand(made):
    """On the first images of each class, where PGD of the most steps leaves them right."""
    trained, rival = made("none", 0), made("mixup", 1).model
    for number in (20, 1000):
        subject = settings_changed(trained, Rounded(trained.model), images=number)
        rows = credibility(subject, rival)
        chosen = stratified(subject.y, number)
        assert len(chosen) == min(number, 60)
        for eps in (0.25, 1.0):
            left = ~wrong(subject.model, attacked(subject, eps, 4), subject.y)
            elsewhere = attacks.pgd(rival, subject.test.x, subject.y, eps=eps, steps=4)
            new = left & wrong(subject.model, elsewhere, subject.y)
            row = pick(rows, measure="missed", eps=eps, by="transfer")
            assert row["value"] == pytest.approx(new[chosen].mean())
            assert row["examples"] == len(chosen)
            assert row["value"] > 0.05


def test_its_own_images_are_nothing_new(made):
    subject = made("none", 0)
    for row in credibility(subject, subject.model):
        if row["by"] == "transfer":
            assert row["value"] == 0
            assert row["warning"] is False


def test_a_masked_network_is_warned_of(made):
    trained = made("none", 0)
    subject = settings_changed(trained, Rounded(trained.model), images=40, queries=30)
    rows = credibility(subject, trained.model)
    assert pick(rows, measure="no gradient")["value"] == 1
    short = pick(rows, measure="short of 1")
    chosen = stratified(subject.y, 40)
    clean = wrong(subject.model, subject.test.x, subject.y)[chosen].mean()
    assert short["value"] == pytest.approx(1 - clean)
    for row in (pick(rows, measure="no gradient"), short, pick(rows, by="transfer", eps=1.0)):
        assert row["warning"] is True
    assert pick(rows, measure="random outputs")["warning"] is False


# Stress


@pytest.mark.parametrize("augmentation", ["none", "mixup"])
def test_stress_is_counted_by_hand(made, augmentation):
    subject = made(augmentation, 0 if augmentation == "none" else 1)
    rows, settings = stress(subject), subject.settings("stress")
    n = settings["neighbours"]

    def shares(x, eps):
        """A loop over centres: the share of neighbours labelled otherwise than the centre."""
        around = sphere(x, eps, n, subject.generator("stress"))
        with torch.no_grad():
            own = subject.model(x).argmax(1)
            return np.array([
                (subject.model(around[k]).argmax(1) != own[k]).double().mean().item()
                for k in range(len(x))
            ])  # fmt: skip

    for eps in settings["clean"]:
        found = pick(rows, centre="clean", eps=eps)
        assert found["value"] == pytest.approx(shares(subject.test.x, eps).mean(), abs=1e-6)
        assert (found["examples"], found["group"], found["neighbours"]) == (60, "all", n)
    for eps in settings["sphere"]:
        found = pick(rows, centre="sphere", eps=eps)
        centres = sphere(subject.test.x, eps, 1, subject.generator("centres"))[:, 0]
        assert found["value"] == pytest.approx(shares(centres, eps).mean(), abs=1e-6)
        assert (found["examples"], found["group"], found["neighbours"]) == (60, "all", n)
    for eps in settings["adversarial"]:
        centres = attacked(subject, eps, settings["steps"])
        around, fooled = shares(centres, eps), wrong(subject.model, centres, subject.y)
        for group, members in (("successful", fooled), ("unsuccessful", ~fooled)):
            found = pick(rows, centre="adversarial", group=group, eps=eps)
            assert found["examples"] == members.sum()
            if members.any():
                assert found["value"] == pytest.approx(around[members].mean(), abs=1e-6)
            else:
                assert np.isnan(found["value"])  # missing, not zero


@pytest.mark.parametrize("augmentation", ["none", "mixup"])
def test_intervals_of_stress(made, augmentation):
    """1.96 standard errors of the centres' mean to either side, and what one more may add."""
    subject = made(augmentation, 0 if augmentation == "none" else 1)
    compared = 0
    for row in stress(subject):
        assert row["low"] <= row["value"] <= row["high"] or row["examples"] == 0
        if row["centre"] == "clean" and 0.05 < row["value"] < 0.95:
            around = sphere(subject.test.x, row["eps"], 32, subject.generator("stress"))
            with torch.no_grad():
                own = subject.model(subject.test.x).argmax(1)
                labels = subject.model(around.flatten(0, 1)).argmax(1).view(60, 32)
            error = stats.sem((labels != own[:, None]).double().mean(1).numpy())
            width = row["high"] - row["low"]
            assert 0.85 * 2 * 1.96 * error < width < 1.15 * 2 * 1.96 * error + 2 * 3.7 / 60
            compared += 1
    assert compared


def test_points_on_the_sphere_are_centres_of_their_own(made):
    """Around them stress is another number than around the test points, and of other draws."""
    subject = made("none", 0)
    stretched = with_settings(subject.profile, "stress", sphere=[0.5, 1.0])
    rows = stress(
        Subject(stretched, subject.point, subject.model, study.dataset(stretched), Identity())
    )
    for eps in (0.5, 1.0):
        assert pick(rows, centre="sphere", eps=eps)["value"] > 0
        assert pick(rows, centre="sphere", eps=eps) != pick(rows, centre="clean", eps=eps)
    assert pick(rows, centre="clean", eps=1) == pick(stress(subject), centre="clean", eps=1)
    none = with_settings(stretched, "stress", sphere=[], clean=[])
    rows = stress(Subject(none, subject.point, subject.model, study.dataset(none), Identity()))
    assert {row["centre"] for row in rows} == {"adversarial"}


def test_stress_agrees_with_directions_drawn_otherwise(made):
    """Within four standard errors of an estimate with numpy's directions, 40 times as many."""
    subject, rng = made("none", 0), np.random.default_rng(0)
    rows = stress(subject)
    for eps in (1, 2):
        shares = []
        for centre in subject.test.x:
            direction = rng.standard_normal((1280, 64))
            direction *= eps / np.linalg.norm(direction, axis=1, keepdims=True)
            around = centre + torch.tensor(direction, dtype=torch.float32).view(-1, 1, 8, 8)
            with torch.no_grad():
                own = subject.model(centre[None]).argmax()
                shares.append((subject.model(around).argmax(1) != own).double().mean().item())
        shares = np.array(shares)
        error = np.sqrt((shares * (1 - shares)).sum() / 32) / 60
        found = pick(rows, centre="clean", eps=eps)["value"]
        assert error > 0
        assert abs(found - shares.mean()) < 4 * error


def test_adversarial_centres_are_apart_and_add_up(made):
    rows = stress(made("none", 0))
    numbers = {}
    for row in rows:
        if row["centre"] == "adversarial":
            numbers.setdefault(row["eps"], {})[row["group"]] = row["examples"]
    assert numbers.keys() == {0.25, 1.0}
    for groups in numbers.values():
        assert groups.keys() == {"successful", "unsuccessful"}
        assert sum(groups.values()) == 60
    assert numbers[1.0]["successful"] > numbers[0.25]["successful"]


def test_a_group_without_members_is_missing(made):
    """A network that is never right: every attack succeeds."""
    subject = made("none", 0)
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[0] = 1.0  # it says 0 to everything
    images = study.dataset(subject.profile)
    test = images.test_labels != 0
    images = type(images)("digits", images.classes, images.train_images, images.train_labels,
                          images.test_images[test], images.test_labels[test])  # fmt: skip
    rows = stress(Subject(subject.profile, subject.point, model, images, Identity()))
    for row in rows:
        if row["group"] == "unsuccessful":
            assert np.isnan([row["value"], row["low"], row["high"]]).all()
            assert row["examples"] == 0
        else:
            # Nothing changes its label: an exact interval of none of n ends at 1 - .025^(1/n).
            assert row["value"] == row["low"] == 0
            assert row["high"] == pytest.approx(1 - 0.025 ** (1 / row["examples"]), rel=0.1)
            assert row["examples"] == len(images.test_labels)


# The draw, the test points


@pytest.mark.parametrize(("augmentation", "p"), [("classic", 0.25), ("mixup", 1), ("classic", 1)])
def test_the_draw_is_of_the_training_sample_index_by_index(made, augmentation, p):
    subject = made(augmentation, p)
    images = study.dataset(subject.profile)
    clean = to_sample(images.train_images, images.train_labels, 10)
    drawn = last(subject).drawn
    assert len(drawn) == 200
    assert torch.equal(subject.train.x, clean.x)
    untouched = ~changed(clean, drawn)
    assert torch.equal(drawn.x[untouched], clean.x[untouched])
    assert (untouched.sum() > 30) == (p < 1)
    if augmentation == "mixup":
        # x = w a + (1 - w) b with b another example of the sample, and y likewise: what an
        # example shares with its own twin shows in y, which holds its own label with weight w.
        own = drawn.y.gather(1, images.train_labels[:, None])[:, 0]
        assert (own > 0).all()
        assert torch.allclose(drawn.y.sum(1), torch.ones(200))
        # A weight a batch: labels take few values, and not one.
        weights = {round(w, 5) for w in drawn.y.max(1).values.tolist()} - {1.0}
        assert 2 <= len(weights) <= 7  # 200 / 32 batches
    else:
        assert torch.equal(drawn.y, clean.y)
        # A shift by a pixel, 15 degrees and 10 % leave it near its own example.
        near = (drawn.x - clean.x).flatten(1).norm(dim=1)
        far = (drawn.x - clean.x.roll(1, 0)).flatten(1).norm(dim=1)
        assert near.mean() < 0.9 * far.mean()


def test_without_augmentation_the_draw_is_the_sample(made):
    subject = made("none", 0)
    assert torch.equal(last(subject).drawn.x, subject.train.x)
    assert torch.equal(last(subject).drawn.y, subject.train.y)


def test_mixup_does_not_mix_neighbours_of_the_file(made):
    """Batches are drawn in an order of their own: partners come from the whole sample."""
    subject = made("mixup", 1)
    labels = study.dataset(subject.profile).train_labels
    batch = {}
    for index, weight in enumerate(last(subject).drawn.y.max(1).values.tolist()):
        if weight < 1:
            batch.setdefault(round(weight, 5), []).append(index)
    largest = max(batch.values(), key=len)
    assert max(largest) - min(largest) > 64
    assert len(labels) == 200


def test_the_test_points_are_stratified_and_the_same_for_every_model(made):
    first, other = made("none", 0), made("mixup", 1)
    labels = first.y
    chosen = stratified(labels, 20)
    assert Counter(labels[chosen].tolist()) == dict.fromkeys(range(10), 2)
    # The first of each class, in the order of the file.
    by_hand = sorted(i for c in range(10) for i in np.flatnonzero(labels.numpy() == c)[:2])
    assert chosen.tolist() == by_hand
    for subject in (first, other):
        tests = last(subject).tests
        assert len(tests) == 40
        assert torch.equal(tests.x[:20], subject.test.x[chosen])
        twins = attacked(subject, 0.5, 4)[chosen]
        torch.testing.assert_close(tests.x[20:], twins)
        assert torch.equal(tests.y[:20], tests.y[20:])  # the loss is at the true label
        assert torch.equal(tests.y[:20], subject.test.y[chosen])


@pytest.mark.parametrize("number", [1, 7, 25, 60, 1000])
def test_stratified_numbers_differ_by_one_at_most(number):
    y = torch.randint(0, 10, (500,), generator=torch.Generator().manual_seed(0))
    chosen = stratified(y, number)
    assert len(set(chosen.tolist())) == min(number, 500)
    counts = Counter(y[chosen].tolist())
    if number <= 200:
        found = [counts[c] for c in range(10)]
        assert max(found) - min(found) <= 1


# Influence


class ByHand:
    """Influence at the last layer in numpy: softmax regression on the features, no chunks.

    R = mean cross-entropy over the draw + (l2 / 2) |theta|^2. For logits W a + b the gradient at
    an example is (q - y) (a, 1)', and the Hessian is the mean of (diag q - q q') (x) (a, 1)(a, 1)'.
    """

    def __init__(self, subject):
        self.subject, self.l2 = subject, subject.profile.training["weight_decay"]
        head = copy.deepcopy(subject.model.head).double()
        self.theta = np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]])
        a, q, _ = self.see(last(subject).drawn)
        d, k = a.shape[1], q.shape[1]
        curvature = np.einsum("nk,kl->nkl", q, np.eye(k)) - np.einsum("nk,nl->nkl", q, q)
        blocks = np.empty((k, d, k, d))
        for i in range(k):
            for j in range(k):
                blocks[i, :, j] = (a * curvature[:, i, j, None]).T @ a / len(a)
        self.H = blocks.reshape(k * d, k * d) + self.l2 * np.eye(k * d)

    def see(self, sample):
        with torch.no_grad():
            a = self.subject.model.features(sample.x).double().numpy()
        a = np.hstack([a, np.ones((len(a), 1))])
        z = np.exp((logits := a @ self.theta.T) - logits.max(1, keepdims=True))
        return a, z / z.sum(1, keepdims=True), sample.y.double().numpy()

    def gradients(self, sample, l2=0.0):
        a, q, y = self.see(sample)
        return ((q - y)[:, :, None] * a[:, None] + l2 * self.theta).reshape(len(a), -1)

    def scores(self, points, alone=False):
        """|I| of the points on the clean and adversarial tests, by (test, method).

        With `alone`, without the regulariser's share in the points' gradients.
        """
        g = self.gradients(points, 0.0 if alone else self.l2)
        tests = self.gradients(last(self.subject).tests)
        norms = np.linalg.norm(self.gradients(points), axis=1)[None]
        found = {("none", "gradient norm"): norms}
        for method, scores in {
            "exact": -tests @ np.linalg.solve(self.H, g.T), "identity": -tests @ g.T
        }.items():  # fmt: skip
            found["clean", method], found["adversarial", method] = np.abs(np.split(scores, 2))
        return found


@pytest.fixture(scope="module")
def cases(made):
    """Rows of influence with the same computed by hand."""
    control = made("none", 0)
    control_by_hand = ByHand(control)
    found = {}
    for cell in [("classic", 0.25), ("mixup", 1), ("classic", 1)]:
        subject = made(*cell)
        found[cell] = influence(subject, control), subject, ByHand(subject), control_by_hand
    return found


CELLS = [("classic", 0.25), ("mixup", 1), ("classic", 1)]


def both(subject):
    augmented = changed(subject.train, last(subject).drawn)
    one = (
        Sample(part.x[augmented], part.y[augmented])
        for part in (last(subject).drawn, subject.train)
    )
    return augmented.numpy(), *one


@pytest.mark.parametrize("cell", CELLS)
def test_scores_by_hand_are_the_engines(cases, cell):
    """Before any ratio: the matrices of lib.influence on the head agree with numpy's."""
    _, subject, by_hand, _ = cases[cell]
    found = by_hand.scores(last(subject).drawn)
    head = copy.deepcopy(subject.model.head).double()
    with torch.no_grad():
        train, tests = (
            Sample(subject.model.features(s.x).double(), s.y.double())
            for s in (last(subject).drawn, last(subject).tests)
        )
    exact = influence_scores(head, train, tests, method="exact", l2=5e-4).abs().numpy()
    close = {"rtol": 1e-4, "atol": 1e-4}  # the features are in single precision
    np.testing.assert_allclose(found["clean", "exact"], exact[:20], **close)
    np.testing.assert_allclose(found["adversarial", "exact"], exact[20:], **close)
    norms = gradient_norms(head, train).numpy()
    np.testing.assert_allclose(found["none", "gradient norm"][0], norms, **close)


@pytest.mark.parametrize("cell", CELLS)
def test_log_ratios_of_pairs_and_their_control(cases, cell):
    rows, subject, by_hand, control = cases[cell]
    augmented, twins, originals = both(subject)
    assert augmented.sum() >= 30
    for reading, judge in (("pairs", by_hand), ("control", control)):
        one, other = judge.scores(twins), judge.scores(originals)
        for (test, method), scores in one.items():
            ratio = np.log(scores.mean(1) / other[test, method].mean(1))
            found = pick(rows, reading=reading, test=test, method=method)
            assert found["value"] == pytest.approx(np.median(ratio), abs=1e-5)
            assert found["examples"] == augmented.sum()
    for reading, judge in (("pairs", by_hand), ("control", control)):
        one, other = judge.scores(twins, alone=True), judge.scores(originals, alone=True)
        for (test, method), scores in one.items():
            if method != "gradient norm":
                ratio = np.log(scores.mean(1) / other[test, method].mean(1))
                found = pick(rows, reading=f"{reading}, loss alone", test=test, method=method)
                assert found["value"] == pytest.approx(np.median(ratio), abs=1e-5)
    # The control is another network's word: it says something else.
    values = [pick(rows, reading=r, test="clean", method="exact")["value"]
              for r in ("pairs", "control")]  # fmt: skip
    assert abs(values[0] - values[1]) > 1e-2


@pytest.mark.parametrize("cell", CELLS)
def test_log_ratios_of_groups(cases, cell):
    rows, subject, by_hand, _ = cases[cell]
    augmented, *_ = both(subject)
    for (test, method), scores in by_hand.scores(last(subject).drawn).items():
        found = pick(rows, reading="groups", test=test, method=method)
        if min(augmented.sum(), (~augmented).sum()) < 30:
            assert np.isnan(found["value"])
        else:
            ratio = np.log(scores[:, augmented].mean(1) / scores[:, ~augmented].mean(1))
            assert found["value"] == pytest.approx(np.median(ratio), abs=1e-5)
    assert ((~augmented).sum() >= 30) == (cell == ("classic", 0.25))  # both kinds are met


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("share", ["", ", loss alone"])
def test_augmented_points_among_the_most_influential(cases, cell, share):
    """By sorting; a hundred of 200 points, each test point's own."""
    rows, subject, by_hand, _ = cases[cell]
    augmented, *_ = both(subject)
    expected = pick(rows, measure="augmented points")
    assert expected["value"] == pytest.approx(augmented.mean())
    assert expected["examples"] == 200
    for (test, method), scores in by_hand.scores(last(subject).drawn, alone=bool(share)).items():
        if share and method == "gradient norm":
            continue
        found = pick(rows, reading=f"top{share}", test=test, method=method)
        largest = np.argsort(-scores, axis=1)[:, :100]
        # Where two scores are nearly alike, rounding decides.
        assert found["value"] == pytest.approx(augmented[largest].mean(), abs=2e-3)
        assert found["examples"] == 100


@pytest.mark.parametrize("cell", CELLS)
def test_quantiles_of_influence(cases, cell):
    rows, subject, by_hand, _ = cases[cell]
    augmented, *_ = both(subject)
    for (test, method), scores in by_hand.scores(last(subject).drawn).items():
        for group, members in (("augmented", augmented), ("real", ~augmented)):
            for q in QUANTILES if members.any() else ():
                found = pick(rows, table="distribution", test=test, method=method, group=group, q=q)
                assert found["examples"] == members.sum()
                values = scores[:, members]
                low, high = (np.quantile(values, q, method=m) for m in ("lower", "higher"))
                assert low * 0.9999 - 1e-6 <= found["value"] <= high * 1.0001 + 1e-6


def test_misclassified_test_points_are_counted(cases):
    for rows, subject, *_ in cases.values():
        tests = last(subject).tests
        missed = wrong(subject.model, tests.x, tests.y.argmax(1))
        for test, part in (("clean", missed[:20]), ("adversarial", missed[20:])):
            found = pick(rows, measure="test points misclassified", test=test)
            assert found["value"] == pytest.approx(part.mean(), abs=1e-7)
            assert found["examples"] == 20


class FirstOnes:
    """Stands for A(S): the first `number` examples are turned to their negatives."""

    def __init__(self, number):
        self.number = number

    def __call__(self, sample):
        x = sample.x.clone()
        x[: self.number] = 1 - x[: self.number]
        return Sample(x, sample.y)


@pytest.mark.parametrize("number", [0, 1, 29, 30, 31, 169, 170, 171, 199, 200])
def test_a_group_below_thirty_is_missing_and_never_zero(made, number):
    """200 training points, of which `number` are augmented."""
    control, trained = made("none", 0), made("classic", 0.25)
    images = study.dataset(trained.profile)
    subject = Subject(trained.profile, trained.point, trained.model, images, Identity())
    last(subject).drawn = FirstOnes(number)(subject.train)
    rows = influence(subject, control)
    ratios = [row for row in rows if row["measure"] == "log ratio"]
    assert ratios
    for row in ratios:
        groups = row["reading"].startswith("groups")
        enough = number >= 30 and (not groups or 200 - number >= 30)
        assert np.isfinite(row["value"]) == enough
        assert np.isnan(row["value"]) == (not enough)
        assert row["examples"] == number
    groups = {row["group"] for row in rows if row["table"] == "distribution"}
    assert groups == {name for name, size in (("augmented", number), ("real", 200 - number))
                      if size}  # fmt: skip


def test_only_the_excess_over_the_control_speaks_of_training(made):
    """The control's own network as the subject: pairs and control are the same reading."""
    control, other = made("none", 0), made("classic", 1)
    images = study.dataset(control.profile)
    subject = Subject(control.profile, control.point, control.model, images, Identity())
    last(subject).drawn = last(control).drawn
    rows = influence(subject, other)
    assert not [row for row in rows if row.get("reading") == "control"]  # no pairs at p = 0
    twins = FirstOnes(60)(subject.train)
    subject = Subject(control.profile, control.point, control.model, images, Identity())
    last(subject).drawn = twins
    judge = Subject(control.profile, control.point, control.model, images, Identity())
    last(judge).drawn = twins  # the same risk, so the same Hessian
    rows = influence(subject, judge)
    for test, method in [
        ("clean", "exact"),
        ("adversarial", "identity"),
        ("none", "gradient norm"),
    ]:
        one, two = (pick(rows, reading=r, test=test, method=method)["value"]
                    for r in ("pairs", "control"))  # fmt: skip
        assert one == pytest.approx(two, abs=1e-6)


# Trust


@pytest.mark.parametrize("sign", [1, -1])
def test_trust_is_the_correlation_with_retraining(made, monkeypatch, sign):
    """If retraining gave just what was predicted, it is one; the half left out is the largest."""
    subject = made("classic", 0.25)
    by_hand = ByHand(subject)
    g = by_hand.gradients(last(subject).drawn, by_hand.l2)
    tests = by_hand.gradients(last(subject).tests)
    effects = tests @ np.linalg.solve(by_hand.H, g.T) / 200
    asked = []

    def retrained(head, train, tests, indices, *, l2, tolerance, memory):
        asked.extend(indices.tolist())
        assert l2 == 5e-4
        return 1 + sign * 2 * torch.from_numpy(effects[:, asked])

    monkeypatch.setattr("lib.measures.trust.leave_one_out", retrained)
    monkeypatch.setitem(subject.settings("trust"), "left_out", 7)
    rows = trust(subject)
    assert [row["test"] for row in rows] == ["clean", "adversarial"]
    for row in rows:
        assert row["measure"] == "correlation with retraining"
        assert row["value"] == pytest.approx(sign, abs=1e-6)
        assert (row["examples"], row["method"]) == (7, "exact")
    assert len(set(asked)) == 7
    assert asked[:3] == np.argsort(-np.abs(effects).mean(0))[:3].tolist()


def test_trust_is_missing_where_retraining_does_not_converge(made, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ValueError("stopped at a gradient of norm 3")

    monkeypatch.setattr("lib.measures.trust.leave_one_out", refuse)
    rows = trust(made("none", 0))
    assert len(rows) == 2
    assert all(math.isnan(row["value"]) for row in rows)
    assert "norm 3" in capsys.readouterr().err


def test_rows_of_influence_carry_damping_and_residual(made):
    """Those that solve with the Hessian."""
    rows = influence(made("classic", 0.25), made("none", 0))
    named = [row for row in rows if "method" in row]
    assert {row["table"] for row in named} == {"influence", "distribution"}
    for row in named:
        solved = row["method"] == "exact"
        assert (row["damping"] == 0) == solved
        assert (row["residual"] < 1e-6) == solved


def test_the_controls_residual_is_the_controls(made):
    subject, control = made("classic", 0.25), made("none", 0)
    rows = influence(subject, control)
    residuals = {s: last(s).s_test("exact")[1]["residual"] for s in (subject, control)}
    assert residuals[subject] != residuals[control]
    for reading, whose in (("pairs", subject), ("control", control)):
        found = pick(rows, reading=reading, test="clean", method="exact")
        assert found["residual"] == residuals[whose]


def test_measuring_leaves_the_network_and_the_global_generator_alone(made, global_rng_untouched):
    subject = made("classic", 0.25)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    gradients = [p.grad.clone() for p in subject.model.parameters()]  # training's last ones
    for measure in (
        performance, distances, lambda s: credibility(s, made("none", 0).model), stress,
        lambda s: influence(s, made("none", 0)),
    ):  # fmt: skip
        global_rng_untouched(lambda m=measure: m(subject))
    after = subject.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not subject.model.training
    for parameter, gradient in zip(subject.model.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)


def test_measures_of_a_network_with_batch_norm_use_eval_mode(made):
    """Values of single images must not depend on who else is in the batch."""
    trained = made("none", 0)
    model = initialise(build("resnet9", 10, 1), 0).eval()
    images = study.dataset(trained.profile)
    images = type(images)("digits", images.classes, images.train_images[:40],
                          images.train_labels[:40],
                          torch.nn.functional.pad(images.test_images[:10], [4] * 4),
                          images.test_labels[:10])  # fmt: skip
    rows = performance(Subject(trained.profile, trained.point, model, images, Identity()))
    x = images.test_images.float() / 255
    alone = torch.cat([model(one[None]).argmax(1) for one in x])
    assert rows[0]["value"] == pytest.approx((alone != images.test_labels).float().mean().item())
    assert not model.training


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("measures.distances.upto", -1, ["upto", "-1"]),
        ("measures.distances.steps", 0, ["steps", "0"]),
        ("measures.checks.images", 0, ["images", "0"]),
        ("measures.checks.queries", 1.5, ["queries", "1.5"]),
        ("measures.checks.restarts", 0, ["restarts", "0"]),
        ("measures.stress.sphere", [-1], ["-1"]),
        ("measures.performance.eps", [-0.5], ["-0.5"]),
        ("measures.performance.steps", [0], ["steps", "0"]),
        ("measures.stress.clean", [float("nan")], ["nan"]),
        ("measures.stress.neighbours", 0, ["neighbours", "0"]),
        ("measures.influence.method", "magic", ["'magic'", "exact"]),
        ("measures.influence.method", "identity", ["'identity'", "exact"]),
        ("measures.influence.test_points", 1.5, ["test_points", "1.5"]),
    ],
)
def test_settings_are_refused_before_anything_is_trained(tmp_path, setting, value, said, refuses):
    _, section, name = setting.split(".")
    refuses(lambda: small_profile(tmp_path, **{setting: value}), section, name, *said)
