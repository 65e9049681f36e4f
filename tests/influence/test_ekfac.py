"""EK-FAC against its definition, written out, and against the whole empirical Fisher matrix."""

import pytest
import torch
from torch import nn

from lib.augmentation.algebra import Sample
from lib.influence.ekfac import treatable
from lib.influence.functions import gradients, influence, s_test, self_influence
from lib.influence.solvers import NotPositiveDefinite


def draw(s, *shape, classes=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(s, *shape, generator=rng, dtype=torch.float64)
    return Sample(x, (3 * torch.randn(s, classes, generator=rng).double()).softmax(1))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double()


def by_definition(layer_inputs, layer_slopes, gradients, c):
    """(U (Lambda + c) U')^-1 g of one layer, for inputs `[n, p]` and output gradients `[n, k]`.

    U has the Kronecker products of the eigenvectors of the two second moments, Lambda the mean
    squares of the gradients in that basis.
    """
    n = len(layer_inputs)
    right = torch.linalg.eigh(layer_inputs.T @ layer_inputs / n)[1]
    left = torch.linalg.eigh(layer_slopes.T @ layer_slopes / n)[1]
    rotated = torch.einsum("no,np->nop", layer_slopes @ left, layer_inputs @ right)
    values = rotated.square().mean(0)
    return left @ ((left.T @ gradients @ right) / (values + c)) @ right.T


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(bias):
    model = seeded(lambda: nn.Linear(4, 3, bias=bias))
    train, test = draw(60, 4), draw(5, 4, seed=50)
    a = torch.cat([train.x, torch.ones(60, 1)], 1) if bias else train.x
    slopes = (model(train.x).softmax(1) - train.y).detach()
    g = gradients(model, test)
    matrices = g[:, :12].view(-1, 3, 4)
    matrices = torch.cat([matrices, g[:, 12:, None]], 2) if bias else matrices
    expected = by_definition(a, slopes, matrices, 0.02 + 0.01)
    value = s_test(model, train, test, method="ekfac", l2=0.02, damping=0.01)
    assert torch.allclose(value[:, :12], expected[:, :, :4].flatten(1), rtol=1e-6)
    assert torch.allclose(value[:, 12:], expected[:, :, 4:].flatten(1), rtol=1e-6)


def test_scores_are_minus_the_products_with_the_training_gradients():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    train, test = draw(60, 4), draw(5, 4, seed=50)
    settings = {"method": "ekfac", "l2": 0.02, "damping": 0.01}
    solved = s_test(model, train, test, **settings)
    expected = -solved @ gradients(model, train, l2=0.02).T
    assert torch.allclose(influence(model, train, test, **settings), expected, atol=1e-10)
    diagonal = influence(model, train, train, **settings).diagonal()
    assert torch.allclose(self_influence(model, train, **settings), diagonal, atol=1e-10)


def test_each_layer_is_a_block_of_its_own():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    train, test = draw(60, 4), draw(5, 4, seed=50)
    whole = s_test(model, train, test, method="ekfac", damping=0.01)
    last = s_test(model, train, test, method="ekfac", damping=0.01, parameters="last")
    assert torch.allclose(whole[:, 25:], last, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
def test_kronfluences_own_scores_are_minus_ours(tmp_path):
    """Its pairwise scores, of a summed loss without regulariser, on a convolutional network."""
    from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
    from torch.nn.functional import cross_entropy
    from torch.utils.data import TensorDataset

    def make():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))

    class Sums(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    train, test = draw(40, 1, 4, 4), draw(6, 1, 4, 4, seed=50)
    ours = influence(seeded(make), train, test, method="ekfac", damping=0.1)
    double = dict.fromkeys(
        ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype",
         "lambda_dtype"), torch.float64,
    )  # fmt: skip
    analyzer = Analyzer("peer", prepare_model(seeded(make).eval(), Sums()), Sums(), cpu=True,
                        disable_tqdm=True, output_dir=str(tmp_path))  # fmt: skip
    sets = [TensorDataset(s.x, s.y) for s in (train, test)]
    analyzer.fit_all_factors(
        "f", sets[0], per_device_batch_size=20,
        factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True, **double),
    )  # fmt: skip
    exactly = dict.fromkeys(
        ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype"), torch.float64
    )
    scores = analyzer.compute_pairwise_scores(
        "s", "f", sets[1], sets[0], per_device_query_batch_size=6, per_device_train_batch_size=20,
        score_args=ScoreArguments(damping_factor=0.1, **exactly),
    )  # fmt: skip
    theirs = analyzer.load_pairwise_scores("s") if scores is None else scores
    assert torch.allclose(-ours, theirs["all_modules"].to(ours), rtol=1e-5, atol=1e-9)


def test_it_is_close_to_the_whole_empirical_fisher():
    """With isotropic inputs the factors are nearly independent: Pearson 0.99 over all scores."""
    model = seeded(lambda: nn.Linear(6, 3, bias=False))
    train, test = draw(4000, 6), draw(20, 6, seed=50)
    g = gradients(model, train)
    fisher = g.T @ g / 4000 + 0.01 * torch.eye(18)
    expected = -gradients(model, test) @ torch.linalg.solve(fisher, g.T)
    value = influence(model, train, test, method="ekfac", damping=0.01)
    assert torch.corrcoef(torch.stack([value.flatten(), expected.flatten()]))[0, 1] >= 0.99


# ------------------------------------------------------------------ what is refused


def test_layers_that_it_can_not_treat(refuses):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    train = draw(20, 1, 4, 4)
    call = model.double(), train, train
    refuses(lambda: influence(*call, method="ekfac"), "BatchNorm2d", "'1'", "1.bias", "1.weight")
    refuses(lambda: influence(*call, method="ekfac", parameters=["0.weight"]), "'0'", "0.bias")
    refuses(
        lambda: influence(*call, method="ekfac", curvature="gauss-newton"), "ekfac", "curvature"
    )
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3)).double()
    two = draw(20, 2, 4, 4)
    refuses(lambda: influence(grouped, two, two, method="ekfac"), "Conv2d", "0.weight")


def test_what_it_can_treat_it_treats():
    """The network of a profile for a GPU has BatchNorm, whose parameters are left out."""
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)]
    model, train = seeded(lambda: nn.Sequential(*layers)), draw(20, 1, 4, 4)
    names = treatable(model)
    assert names == ["0.weight", "0.bias", "3.weight", "3.bias"]
    found = influence(model, train, train, method="ekfac", parameters=names, damping=0.1)
    assert found.isfinite().all()
    assert treatable(model[3]) == ["weight", "bias"]
    assert treatable(nn.Conv2d(2, 2, 3, groups=2)) == []


def test_a_bare_parameter(refuses):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.zeros(4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x + self.shift)

    call = Shifted().double(), draw(20, 4), draw(20, 4)
    refuses(lambda: influence(*call, method="ekfac"), "Shifted", "shift")


def test_no_damping_for_directions_without_curvature(refuses):
    model, train = nn.Linear(4, 3).double(), draw(20, 4)
    still = Sample(torch.zeros_like(train.x), train.y)
    refuses(
        lambda: influence(model, still, train, method="ekfac"), "damping", error=NotPositiveDefinite
    )
