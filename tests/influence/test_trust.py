"""Retraining against scikit-learn, and the datamodelling score against its definition."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from lib.augmentation.algebra import Sample
from lib.influence.functions import influence, removal_effect
from lib.influence.trust import (
    agreement,
    correlation,
    leave_one_out,
    linear_datamodelling_score,
    minimised,
    rank_correlation,
    retrained_on_subsets,
)

L2 = 0.01


def sample(x, y):
    return Sample(torch.from_numpy(x), F.one_hot(torch.from_numpy(y), 10).double())


def fit(train, l2=L2):
    """The converged softmax regression without a bias, by scikit-learn."""
    solver = LogisticRegression(
        C=1 / (len(train) * l2), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(train.x.numpy(), train.y.argmax(1).numpy())
    model = nn.Linear(64, 10, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(solver.coef_))
    return model


def losses(model, test):
    with torch.no_grad():
        return F.cross_entropy(model(test.x), test.y, reduction="none")


@pytest.fixture(scope="module")
def digits():
    """300 training points, three test points, a fitted model, 60 points left out."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    train, test = sample(x[:300], y[:300]), sample(x[[1000, 1301, 1502]], y[[1000, 1301, 1502]])
    indices = list(range(0, 300, 5))
    model = fit(train)
    return model, train, test, indices, leave_one_out(model, train, test, indices, l2=L2)


def test_leave_one_out_is_scikit_learns_retraining(digits):
    model, train, test, indices, actual = digits
    before = losses(fit(train), test)
    for column in (0, 7, 40):
        kept = torch.arange(300) != indices[column]
        after = losses(fit(Sample(train.x[kept], train.y[kept])), test)
        assert torch.allclose(actual[:, column], after - before, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"method": "exact"}, 0.98),
        ({"method": "cg"}, 0.98),
        ({"method": "cg", "curvature": "gauss-newton"}, 0.98),
        ({"method": "lissa", "repeat": 2}, 0.97),
    ],
    ids=["exact", "cg", "gauss-newton", "lissa"],
)
def test_removal_effect_predicts_leaving_one_out(digits, settings, least):
    model, train, test, indices, actual = digits
    predicted = removal_effect(model, train, test, l2=L2, **settings)[:, indices]
    for guess, truth in zip(predicted.numpy(), actual.numpy(), strict=True):
        assert stats.pearsonr(guess, truth).statistic >= least
    slope = stats.linregress(predicted.flatten().numpy(), actual.flatten().numpy()).slope
    assert 1.0 < slope < 1.25


def test_exact_and_cg_agree(digits):
    model, train, test, *_ = digits
    exact, cg = (influence(model, train, test, l2=L2, method=m) for m in ("exact", "cg"))
    assert (exact - cg).abs().max() < 1e-6 * exact.abs().max()


def test_leave_one_out_of_a_networks_last_layer(digits):
    """The other layers stay as they are, and so does the model that was given."""
    _, train, test, *_ = digits
    model = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 10))
    before = copy.deepcopy(model.state_dict())
    actual = leave_one_out(model, train, test, [3, 8], l2=0.1, parameters="last")
    features = [Sample(torch.tanh(model[0].double()(s.x)).detach(), s.y) for s in (train, test)]
    alone = leave_one_out(model[3].double(), *features, [3, 8], l2=0.1)
    assert torch.allclose(actual, alone, atol=1e-7)
    assert model[2].training
    assert all(torch.equal(v, before[k].double()) for k, v in model.state_dict().items())


def test_leave_one_out_that_does_not_converge(digits, refuses):
    model, train, test, *_ = digits
    refuses(
        lambda: leave_one_out(nn.Linear(64, 10), train, test, [0], l2=L2, iterations=1),
        "gradient", "1e-08", "of all points",
    )  # fmt: skip
    refuses(lambda: leave_one_out(model, train, test, [300], l2=L2), "300", "0 .. 299")
    refuses(lambda: leave_one_out(model, train, test, [2, 2], l2=L2), "2", "more than once")
    refuses(lambda: leave_one_out(model, train, test, [], l2=L2), "at least one")
    refuses(lambda: leave_one_out(model, train, test, [1], l2=L2, tolerance=0.0), "tolerance", 0.0)


def test_the_score_is_spearmans_correlation():
    rng = np.random.default_rng(0)
    predicted, masks = rng.normal(size=(3, 20)), rng.random((30, 20)) < 0.5
    outcomes = masks @ predicted.T + rng.normal(size=(30, 3))
    score = linear_datamodelling_score(*map(torch.from_numpy, (predicted, masks, outcomes)))
    for i in range(3):
        expected = stats.spearmanr(masks @ predicted[i], outcomes[:, i]).statistic
        assert score[i].item() == pytest.approx(expected, abs=1e-12)
    perfect = torch.from_numpy(np.exp(masks @ predicted.T))
    same = linear_datamodelling_score(torch.from_numpy(predicted), torch.from_numpy(masks), perfect)
    assert torch.allclose(same, torch.ones(3, dtype=torch.float64))


def test_influence_has_a_high_datamodelling_score(digits):
    model, train, test, *_ = digits
    draw = torch.Generator().manual_seed(0)
    masks, outcomes = retrained_on_subsets(fit, train, test, 24, generator=draw)
    assert masks.shape == (24, 300)
    assert (masks.sum(1) == 150).all()
    first = losses(fit(Sample(train.x[masks[0]], train.y[masks[0]])), test)
    assert torch.allclose(outcomes[0], first)
    score = linear_datamodelling_score(
        influence(model, train, test, l2=L2, method="exact"), masks, outcomes
    )
    assert score.mean() > 0.7


def test_bad_subsets(refuses):
    predicted, masks, outcomes = torch.zeros(2, 5), torch.ones(4, 5).bool(), torch.zeros(4, 2)
    refuses(
        lambda: linear_datamodelling_score(predicted, masks[:, :4], outcomes), "masks", "[4, 4]"
    )
    refuses(lambda: linear_datamodelling_score(predicted, masks.float(), outcomes), "float")
    refuses(lambda: linear_datamodelling_score(predicted, masks, outcomes.T), "outcomes", "[2, 4]")
    refuses(
        lambda: retrained_on_subsets(fit, outcomes, outcomes, 3, generator=None, share=1.0), "share"
    )


def test_minimised_is_scikit_learns_fit():
    x, y = load_digits(return_X_y=True)
    train = sample(x[:300] / 16, y[:300])
    start = nn.Linear(64, 10, bias=False)
    before = start.weight.detach().clone()
    model = minimised(start, train, l2=L2)
    assert torch.allclose(model.weight, fit(train).weight, atol=1e-6)
    assert model.weight.dtype == torch.float64
    assert torch.equal(start.weight, before)


def test_minimised_says_where_it_stopped(refuses):
    x, y = load_digits(return_X_y=True)
    train = sample(x[:50] / 16, y[:50])
    model = nn.Linear(64, 10).double()
    refuses(lambda: minimised(model, train, l2=1e-6, iterations=1), "gradient of norm", "1e-08")


def test_correlation_is_numpys():
    one, other = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0)).double()
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    assert correlation(one, other).tolist() == pytest.approx(expected)
    assert correlation(torch.ones(1, 3), torch.rand(1, 3)).isnan().all()


def test_rank_correlation_is_scipys():
    one, other = torch.randint(0, 6, (2, 4, 9), generator=torch.Generator().manual_seed(0))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert rank_correlation(one, other).tolist() == pytest.approx(expected)


def test_agreement_is_that_of_scikit_learns_retraining(digits):
    """Every step by hand: the hardest test points, the largest predictions, one fit for each."""
    model, train, *_ = digits
    x, y = load_digits(return_X_y=True)
    test = sample(x[1000:1040] / 16, y[1000:1040])
    before = losses(model, test)
    hardest = before.argsort(descending=True)[:2]
    predicted = removal_effect(model, train, test, l2=L2, method="exact")[hardest]
    chosen = predicted.abs().mean(0).argsort(descending=True)[:8]
    after = []
    for i in chosen:
        kept = torch.arange(300) != i
        after.append(losses(fit(Sample(train.x[kept], train.y[kept])), test)[hardest])
    actual = torch.stack(after, 1) - before[hardest, None]
    pairs = list(zip(predicted[:, chosen], actual, strict=True))
    pearson, spearman = agreement(model, train, test, l2=L2, hardest=2, most=8)
    expected = np.mean([stats.pearsonr(*pair).statistic for pair in pairs])
    assert pearson == pytest.approx(expected, abs=1e-3)
    assert pearson > 0.98
    expected = np.mean([stats.spearmanr(*pair).statistic for pair in pairs])
    assert spearman == pytest.approx(expected, abs=1e-6)


def test_agreement_where_retraining_does_not_converge(digits, refuses):
    """No gradient in double precision gets so short."""
    model, train, test, *_ = digits
    refuses(lambda: agreement(model, train, test, l2=L2, tolerance=1e-30), "gradient", "1e-30")


# ------------------------------------------------------------------ what does not fit


def small():
    x, y = load_digits(return_X_y=True)
    model = nn.Linear(64, 10).double()
    return model, sample(x[:40] / 16, y[:40]), sample(x[50:55] / 16, y[50:55])


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, 0, -1.0, "small"])
def test_bad_tolerances(tolerance, refuses):
    model, train, test = small()
    said = "tolerance", repr(tolerance)
    refuses(lambda: leave_one_out(model, train, test, [3], l2=L2, tolerance=tolerance), *said)
    refuses(lambda: minimised(model, train, l2=L2, tolerance=tolerance), *said)
    refuses(lambda: agreement(model, train, test, l2=L2, tolerance=tolerance), *said)


@pytest.mark.parametrize("value", [0, -2, 1.5, None])
def test_bad_counts(value, refuses):
    model, train, test = small()
    for name, call in (
        ("iterations", lambda **k: leave_one_out(model, train, test, [3], l2=L2, **k)),
        ("iterations", lambda **k: minimised(model, train, l2=L2, **k)),
        ("hardest", lambda **k: agreement(model, train, test, l2=L2, **k)),
        ("most", lambda **k: agreement(model, train, test, l2=L2, **k)),
        ("subsets", lambda **k: retrained_on_subsets(
            fit, train, test, generator=torch.Generator(), **k)),
    ):  # fmt: skip
        refuses(lambda call=call, name=name: call(**{name: value}), name, repr(value))


def test_samples_that_do_not_fit_a_retraining(refuses):
    model, train, test = small()
    calls = [
        lambda train, test: leave_one_out(model, train, test, [0], l2=L2),
        lambda train, test: agreement(model, train, test, l2=L2, hardest=1, most=2),
        lambda train, test: minimised(model, train, l2=L2),
    ]
    broken = Sample(train.x.clone(), train.y)
    broken.x[3, 1] = math.nan
    for call in calls:
        refuses(lambda call=call: call(broken, test), "training point 3", "not finite")
        refuses(lambda call=call: call(Sample(train.x, train.y[:1]), test), "labels", "[40, 10]")
        refuses(lambda call=call: call(Sample(train.x, train.y[:, :1]), test), "labels")
    for call in calls[:2]:
        refuses(lambda call=call: call(train, broken), "test point 3", "not finite")
        refuses(lambda call=call: call(train, Sample(test.x, test.y[:1])), "labels", "[5, 10]")
    refuses(lambda: minimised(torch.tanh, train, l2=L2), "nn.Module")
    one = Sample(train.x[:1], train.y[:1])
    refuses(lambda: leave_one_out(model, one, test, [0], l2=L2), "nothing would be left")
    none = Sample(test.x[:0], test.y[:0])
    assert leave_one_out(model, train, none, [0, 1], l2=L2).shape == (0, 2)
    refuses(lambda: agreement(model, train, none, l2=L2), "holds no example")


def test_a_retraining_leaves_the_samples_of_a_careless_network_alone():
    class Careless(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model, train, test = small()
    careless = Careless(64, 10).double()
    careless.load_state_dict(model.state_dict())
    kept, doubled = train.x.clone(), [Sample(2 * s.x, s.y) for s in (train, test)]
    found = leave_one_out(careless, train, test, [3, 8], l2=L2)
    assert torch.equal(train.x, kept)
    assert torch.allclose(found, leave_one_out(model, *doubled, [3, 8], l2=L2), atol=1e-7)


def test_only_what_is_trained_is_trained_again():
    model, train, test = small()
    model.bias.requires_grad_(False)
    frozen = leave_one_out(model, train, test, [3], l2=L2)
    assert torch.equal(minimised(model, train, l2=L2).bias, model.bias)
    named = leave_one_out(model, train, test, [3], l2=L2, parameters=["weight"])
    assert torch.equal(frozen, named)


def test_retraining_in_inference_mode():
    model, train, test = small()
    expected = leave_one_out(model, train, test, [3], l2=L2)
    with torch.inference_mode():
        assert torch.equal(leave_one_out(model, train, test, [3], l2=L2), expected)
        assert torch.equal(minimised(model, train, l2=L2).weight,
                           minimised(model, train, l2=L2).weight)  # fmt: skip


def test_correlations_of_sides_that_do_not_fit(refuses):
    one = torch.rand(4, 9).double()
    for other in (one[:1], one[:, :1], one[0]):
        refuses(lambda other=other: correlation(one, other), "[4, 9]")
    refuses(lambda: linear_datamodelling_score(one[0], one > 0.5, one), "predicted", "[9]")
    assert correlation(torch.full((1, 7), 0.1), torch.rand(1, 7)).isnan().all()
