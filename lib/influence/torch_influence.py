"""A bridge to torch-influence (Lo and Bae 2022): its solvers here, and its objectives here.

Its score is +(1/n) g_train' (H + damping I)^-1 g_test, the loss change if a point is removed; ours
is Koh and Liang's I, which is -n times that.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, TensorDataset

from lib import checks
from lib.attacks.threat import frozen
from lib.augmentation.algebra import Sample
from lib.influence.last_layer import CURVATURES, LinearRisk, chosen_parameters
from lib.influence.risk import MEMORY, Risk
from lib.influence.solvers import SOLVERS, influences, prepare

# -------------------------------------------------------------------------- its solvers


def direct(risk, damping, batch_size=200):
    """Its AutogradInfluenceModule: the dense inverse Hessian."""
    if risk.curvature != "hessian":
        raise ValueError("method 'torch-influence-direct' has curvature='hessian' only")
    return _solver(risk, "AutogradInfluenceModule", batch_size, damp=damping, check_eigvals=True)


def cg(risk, damping, tolerance=1e-8, iterations=1000, batch_size=200):
    """Its CGInfluenceModule: scipy's conjugate gradients, one right side after the other."""
    return _solver(risk, "CGInfluenceModule", batch_size, damp=damping, rtol=tolerance,
                   maxiter=iterations, gnh=risk.curvature != "hessian")  # fmt: skip


def lissa(risk, damping, depth=2000, repeat=1, scale=10.0, batch_size=100):
    """Its LiSSAInfluenceModule, whose batches draw from torch's own generator."""
    return _solver(risk, "LiSSAInfluenceModule", batch_size, damp=damping, depth=depth,
                   repeat=repeat, scale=scale, gnh=risk.curvature != "hessian")  # fmt: skip


METHODS = {"torch-influence-direct": direct, "torch-influence-cg": cg,
           "torch-influence-lissa": lissa}  # fmt: skip


def _solver(risk, kind, batch_size, **settings):
    try:
        import torch_influence
    except ImportError as error:
        raise ValueError(
            f"method 'torch-influence' needs that package ({error}): see "
            "benchmarks/requirements-influence.txt"
        ) from None

    class CrossEntropy(torch_influence.BaseObjective):
        def train_outputs(self, model, batch):
            return model(batch[0])

        def train_loss_on_outputs(self, outputs, batch):
            return F.cross_entropy(outputs, batch[1])

        def train_regularization(self, params):
            return risk.l2 / 2 * params.square().sum()

        def test_loss(self, model, params, batch):
            return self.train_loss_on_outputs(self.train_outputs(model, batch), batch)

    linear = isinstance(risk, LinearRisk)
    x = risk.train.x[:, : risk.width] if linear else risk.train.x
    names = ["weight", "bias"][: len(risk.shapes)] if linear else list(risk.shapes)
    # It takes parameters that ask for a gradient, in the order of the model and contiguous.
    model = copy.deepcopy(risk.layer if linear else risk.model)
    model = model.to(memory_format=torch.contiguous_format)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    theirs = [name for name, _ in model.named_parameters() if name in names]
    places = torch.arange(len(risk.theta)).split([s.numel() for s in risk.shapes.values()])
    ours = dict(zip(names, places, strict=True))
    order = torch.cat([ours[name] for name in theirs]).to(risk.theta.device)
    loader = DataLoader(TensorDataset(x, risk.train.y), batch_size=batch_size)
    with torch.enable_grad():
        try:
            module = getattr(torch_influence, kind)(
                model=model, objective=CrossEntropy(), train_loader=loader, test_loader=loader,
                device=risk.theta.device, **settings,
            )  # fmt: skip
        except ValueError:
            raise ValueError(
                "torch-influence finds that H + damping I is not positive definite: a larger "
                "damping makes it so"
            ) from None

    def solve(right):
        with torch.enable_grad():
            found = [module.inverse_hvp(row[order].contiguous()) for row in right]
        solved = torch.empty_like(right)
        solved[:, order] = torch.stack(found).to(right).detach()
        return solved

    return solve


# -------------------------------------------------------------------------- its objectives


def from_objective(
    objective,
    model,
    train_batches,
    test_batches,
    *,
    method="cg",
    damping=0.0,
    parameters=None,
    curvature="hessian",
    memory=MEMORY,
    progress=False,
    **solver,
):
    """I_up,loss `[n_test, n_train]` of an objective written for torch-influence, by our solvers.

    objective: its train_outputs(model, batch), train_loss_on_outputs(outputs, batch),
    train_regularization(params) and test_loss(model, params, batch) are called by keyword, on
    batches of one or more examples, inside torch.func's transforms. train_batches, test_batches:
    iterables of batches (a DataLoader, say), tensors or tuples, lists and dicts of tensors whose
    first dimension counts examples; scores are in their order. The other arguments as `influence`.
    """
    checks.one_of(method, SOLVERS, "method")
    checks.one_of(curvature, CURVATURES, "curvature")
    checks.radius(damping, "damping")
    train, test = _joined(train_batches, "train"), _joined(test_batches, "test")
    chosen = chosen_parameters(model, parameters)
    with frozen(model), torch.no_grad():
        risk = ObjectiveRisk(objective, model, train, chosen, curvature, memory)
        solve = prepare(SOLVERS[method], method, risk, damping, solver)
        return influences(risk, solve, test, train, progress)


class Batches(Sample):
    """All batches as one: `x` and `y` are the same batch, of which an objective takes its own."""

    def __len__(self):
        return len(tree_leaves(self.x)[0])


def _joined(batches, what):
    batches = list(batches)
    if not batches:
        raise ValueError(f"{what}_batches must hold at least one batch, got none")
    whole = tree_map(lambda *parts: torch.cat(parts), *batches)
    return Batches(whole, whole)


class _Functions(nn.Module):
    """The objective's functions of a batch, as a module whose parameters can be replaced."""

    def __init__(self, objective, model):
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, theta, batch):
        if theta is None:
            return self.objective.train_outputs(model=self.model, batch=batch)
        return self.objective.test_loss(model=self.model, params=theta, batch=batch)


class ObjectiveRisk(Risk):
    """The risk of a torch-influence objective; its regulariser is a function of theta."""

    def __init__(self, objective, model, train, chosen, curvature, memory):
        functions = _Functions(objective, model).eval()
        chosen = {f"model.{name}": value for name, value in chosen.items()}
        super().__init__(functions, train, chosen, 0.0, curvature, memory, None)
        self.objective = objective

    def network(self, theta, x):
        return functional_call(self.model, self.named(theta), (None, x))

    outputs = network

    def loss(self, outputs, y):
        def one(output, batch):
            batch = tree_map(lambda t: t[None], batch)
            return self.objective.train_loss_on_outputs(outputs=output[None], batch=batch)

        return vmap(one)(outputs, y)

    def test_losses(self, theta, x, y):
        return functional_call(self.model, self.named(theta), (theta, x))[None]

    def curvature_rows(self, rank):
        return None  # the loss in the outputs need not be the cross-entropy

    def share(self):
        return self._slope(self.theta.clone().requires_grad_(), graph=False)

    def _slope(self, theta, graph):
        with torch.enable_grad():
            value = self.objective.train_regularization(params=theta)
            if not (torch.is_tensor(value) and value.requires_grad):
                return torch.zeros_like(theta)
            return torch.autograd.grad(value, theta, create_graph=graph)[0]

    def share_products(self, vectors):
        theta = self.theta.clone().requires_grad_()
        slope = self._slope(theta, graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(vectors)
        rows = [torch.autograd.grad(slope, theta, v, retain_graph=True)[0] for v in vectors]
        return torch.stack(rows)
