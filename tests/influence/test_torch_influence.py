"""The bridge to torch-influence: its objectives by our solvers, and its solvers by our names."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lib.augmentation.algebra import Sample
from lib.influence.functions import influence, removal_effect
from lib.influence.torch_influence import from_objective

L2 = 0.05
WHY = "torch-influence is not installed: benchmarks/requirements-influence.txt has it"


def draw(s, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(s, 4, generator=rng, dtype=torch.float64)
    return Sample(x, (3 * torch.randn(s, 3, generator=rng, dtype=torch.float64)).softmax(1))


def problem(kind):
    """Training and test points, and a model whose Hessian, with damping 0.5, is definite."""
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers) if kind == "perceptron" else nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            rng = torch.Generator().manual_seed(7)
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 2)
    return model.double(), draw(40, 0), draw(6, 50)


class Objective:
    """The four functions of torch-influence's BaseObjective, that call for no package."""

    def train_outputs(self, model, batch):
        return model(batch["x"])

    def train_loss_on_outputs(self, outputs, batch):
        return F.cross_entropy(outputs, batch["y"])

    def train_regularization(self, params):
        return L2 / 2 * params.square().sum()

    def train_loss(self, model, params, batch):
        outputs = self.train_outputs(model=model, batch=batch)
        loss = self.train_loss_on_outputs(outputs=outputs, batch=batch)
        return loss + self.train_regularization(params=params)

    def test_loss(self, model, params, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"])


class Margin(Objective):
    """A measured loss that is another than the trained one, and depends on the parameters."""

    def train_loss_on_outputs(self, outputs, batch):
        return (outputs - batch["y"]).square().sum(1).mean()

    def train_regularization(self, params):
        return L2 * params.square().sum() + 0.01 * params.pow(4).sum()

    def test_loss(self, model, params, batch):
        return (model(batch["x"]) * batch["y"]).sum(1).mean() + params.pow(3).sum()


def batches(sample, size=7):
    parts = zip(sample.x.split(size), sample.y.split(size), strict=True)
    return [{"x": x, "y": y} for x, y in parts]


@pytest.mark.parametrize("kind", ["regression", "perceptron"])
@pytest.mark.parametrize("method", ["exact", "cg"])
@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
def test_an_objective_gives_the_same_as_samples(kind, method, curvature):
    model, train, test = problem(kind)
    settings = {"method": method, "damping": 0.5, "curvature": curvature}
    scores = from_objective(Objective(), model, batches(train), batches(test), **settings)
    assert torch.allclose(scores, influence(model, train, test, l2=L2, **settings), atol=1e-8)


def test_any_objective_is_dense_algebra():
    model, train, test = problem("perceptron")
    objective, named = Margin(), dict(model.named_parameters())
    theta = torch.cat([p.detach().flatten() for p in named.values()])

    def loss(kind, theta, x, y):
        parts = theta.split([p.numel() for p in named.values()])
        values = {n: part.view_as(named[n]) for n, part in zip(named, parts, strict=True)}

        def call(batch):
            return torch.func.functional_call(model, values, (batch,))

        return getattr(objective, kind)(model=call, params=theta, batch={"x": x, "y": y})

    def slopes(kind, sample):
        return torch.stack(
            [torch.func.grad(loss, 1)(kind, theta, x[None], y[None])
             for x, y in zip(sample.x, sample.y, strict=True)]
        )  # fmt: skip

    H = torch.func.hessian(loss, 1)("train_loss", theta, train.x, train.y)
    H += 2 * torch.eye(len(theta))
    expected = -slopes("test_loss", test) @ torch.linalg.solve(H, slopes("train_loss", train).T)
    scores = from_objective(
        objective, model, batches(train), batches(test), damping=2.0, tolerance=1e-12
    )
    assert torch.allclose(scores, expected, atol=1e-8)


def test_what_an_objective_is_refused(refuses):
    model, train, test = problem("perceptron")
    call = (Objective(), model, batches(train))
    refuses(lambda: from_objective(*call, []), "test_batches", "at least one")
    refuses(lambda: from_objective(*call, batches(test), parameters=["head"]), "head", "0.weight")
    refuses(lambda: from_objective(*call, batches(test), method="newton"), "newton", "cg")


# ------------------------------------------------------------------ against the package


@pytest.fixture
def package():
    return pytest.importorskip("torch_influence", reason=WHY)


@pytest.mark.parametrize("kind", ["regression", "perceptron"])
def test_the_package_gives_minus_influence_over_n(package, kind):
    """The same objective there and here; it is the package's own scores that are compared."""
    model, train, test = problem(kind)

    class Theirs(Objective, package.BaseObjective):
        def train_outputs(self, model, batch):
            return model(batch[0])

        def train_loss_on_outputs(self, outputs, batch):
            return F.cross_entropy(outputs, batch[1])

        def test_loss(self, model, params, batch):
            return F.cross_entropy(model(batch[0]), batch[1])

    loaders = [DataLoader(TensorDataset(s.x, s.y), batch_size=9) for s in (train, test)]
    module = package.AutogradInfluenceModule(
        copy.deepcopy(model), Theirs(), *loaders, torch.device("cpu"), damp=0.5
    )
    scores = torch.stack([module.influences(list(range(40)), [i]) for i in range(6)])
    ours = from_objective(Theirs(), model, *loaders, method="exact", damping=0.5)
    assert torch.allclose(-ours / 40, scores, rtol=1e-5, atol=1e-12)
    effect = removal_effect(model, train, test, l2=L2, damping=0.5, method="exact")
    assert torch.allclose(effect, scores, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kind", ["regression", "perceptron"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("torch-influence-direct", {}),
        ("torch-influence-cg", {}),
        ("torch-influence-cg", {"curvature": "gauss-newton"}),
    ],
    ids=["direct", "cg", "gauss-newton"],
)
def test_its_solvers_agree_with_ours(package, kind, method, settings):
    model, train, test = problem(kind)
    names = {"regression": ["bias", "weight"], "perceptron": ["2.weight", "0.bias"]}[kind]
    for parameters in (None, names, "last"):
        shared = {"l2": L2, "damping": 0.5, "parameters": parameters, **settings}
        theirs = influence(model, train, test, method=method, **shared)
        ours = influence(model, train, test, method="exact", **shared)
        assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-8)


def test_its_lissa(package):
    model, train, test = problem("regression")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = influence(
            model, train, test, method="torch-influence-lissa", l2=L2, damping=0.5, depth=200,
            repeat=2, batch_size=40,
        )  # fmt: skip
    ours = influence(model, train, test, method="exact", l2=L2, damping=0.5)
    assert torch.corrcoef(torch.stack([theirs.flatten(), ours.flatten()]))[0, 1] > 0.99


def test_without_the_package(refuses, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_influence", None)
    refuses(
        lambda: influence(*problem("regression"), method="torch-influence-cg"),
        "torch-influence", "requirements-influence.txt",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "torch-influence-cg", "iterations": 2, "damping": 0.0}, "residual"),
        ({"method": "torch-influence-cg", "tolerance": float("nan")}, "tolerance"),
        ({"method": "torch-influence-lissa", "depth": 5, "scale": 100.0}, "residual"),
        ({"method": "torch-influence-lissa", "depth": 0}, "depth"),
        ({"method": "torch-influence-lissa", "scale": float("nan")}, "scale"),
        ({"method": "torch-influence-direct", "batch_size": 0}, "batch_size"),
    ],
)
def test_its_settings_that_can_not_work(package, settings, said, refuses):
    call = {"l2": L2, "damping": 0.5, **settings}
    refuses(lambda: influence(*problem("regression"), **call), said)


# ------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_example_of_a_batch_that_is_not_finite_is_named(value, refuses):
    model, train, test = problem("perceptron")
    for field in "xy":
        broken = {}
        for name, s in (("train", train), ("test", test)):
            broken[name] = Sample(s.x.clone(), s.y.clone())
            getattr(broken[name], field)[4, 1] = value
        for sides in ((broken["train"], test), (train, broken["test"])):
            refuses(
                lambda sides=sides: from_objective(
                    Objective(), model, *map(batches, sides), damping=0.5
                ),
                "point 4", "not finite",
            )  # fmt: skip


def test_batches_whose_tensors_hold_different_numbers_of_examples(refuses):
    model, train, test = problem("perceptron")
    one = [{"x": train.x, "y": train.y[:1]}]
    none = [{"x": train.x[:0], "y": train.y[:0]}]
    for bad, said in ((one, "[1, 3]"), (none, "at least one example")):
        refuses(lambda bad=bad: from_objective(Objective(), model, bad, batches(test)), said)
        refuses(lambda bad=bad: from_objective(Objective(), model, batches(train), bad), said)
    refuses(
        lambda: from_objective(Objective(), torch.tanh, batches(train), batches(test)), "nn.Module"
    )


class InPlace(Objective):
    """Changes what it is given, of each of its functions, where it lies."""

    def train_outputs(self, model, batch):
        return model(batch["x"].sub_(0.3).mul_(2))

    def train_loss_on_outputs(self, outputs, batch):
        return F.cross_entropy(outputs, batch["y"].mul_(2))

    def test_loss(self, model, params, batch):
        return F.cross_entropy(model(batch["x"].sub_(0.3).mul_(2)), batch["y"].mul_(2))


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_an_objective_that_changes_its_batch_gets_a_copy(method):
    model, train, test = problem("perceptron")
    one = [[{"x": s.x, "y": s.y}] for s in (train, test)]
    kept = [(s.x.clone(), s.y.clone()) for s in (train, test)]
    shifted = [Sample((s.x - 0.3) * 2, 2 * s.y) for s in (train, test)]
    settings = {"method": method, "damping": 2.0}
    found = from_objective(InPlace(), model, *one, **settings)
    assert all(
        torch.equal(s.x, x) and torch.equal(s.y, y)
        for s, (x, y) in zip((train, test), kept, strict=True)
    )
    expected = from_objective(Objective(), model, *map(batches, shifted), **settings)
    assert torch.allclose(found, expected, atol=1e-8)


def test_an_objective_in_inference_mode_and_of_a_partly_frozen_network(refuses):
    model, train, test = problem("perceptron")
    sides = batches(train), batches(test)
    expected = from_objective(Objective(), model, *sides, damping=0.5)
    with torch.inference_mode():
        inside = batches(Sample(train.x + 0, train.y + 0)), sides[1]
        assert torch.equal(from_objective(Objective(), model, *inside, damping=0.5), expected)
    last = {"damping": 0.5, "method": "exact"}
    named = from_objective(Objective(), model, *sides, parameters="last", **last)
    model[0].requires_grad_(False)
    assert torch.equal(from_objective(Objective(), model, *sides, **last), named)
    model.requires_grad_(False)
    refuses(lambda: from_objective(Objective(), model, *sides), "requires_grad=False")
