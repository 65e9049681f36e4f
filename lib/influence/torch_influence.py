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
from lib.augmentation.algebra import Sample
from lib.influence.last_layer import CURVATURES, LinearRisk, chosen_parameters, plain
from lib.influence.risk import MEMORY, Risk, as_given, positive, share_of_one, whole
from lib.influence.solvers import SOLVERS, influences, prepare, relative_residual

# -------------------------------------------------------------------------- its solvers


def direct(risk, damping, batch_size=200):
    """Its AutogradInfluenceModule: the dense inverse Hessian."""
    if risk.curvature != "hessian":
        raise ValueError("method 'torch-influence-direct' has curvature='hessian' only")
    return _solver(risk, damping, "AutogradInfluenceModule", batch_size, 1e-3, check_eigvals=True)


def cg(risk, damping, tolerance=1e-8, iterations=1000, batch_size=200):
    """Its CGInfluenceModule: scipy's conjugate gradients, one right side after the other."""
    tolerance, iterations = share_of_one(tolerance, "tolerance"), whole(iterations, "iterations")
    bound = max(10 * tolerance, 1e3 * torch.finfo(risk.theta.dtype).eps)  # it rounds as it goes
    return _solver(risk, damping, "CGInfluenceModule", batch_size, bound, rtol=tolerance,
                   maxiter=iterations, gnh=risk.curvature != "hessian")  # fmt: skip


def lissa(risk, damping, depth=2000, repeat=1, scale=10.0, batch_size=100, tolerance=0.2):
    """Its LiSSAInfluenceModule, whose batches draw from torch's own generator."""
    tolerance, scale = share_of_one(tolerance, "tolerance"), positive(scale, "scale")
    depth, repeat = whole(depth, "depth"), whole(repeat, "repeat")
    return _solver(risk, damping, "LiSSAInfluenceModule", batch_size, tolerance, depth=depth,
                   repeat=repeat, scale=scale, gnh=risk.curvature != "hessian")  # fmt: skip


METHODS = {"torch-influence-direct": direct, "torch-influence-cg": cg,
           "torch-influence-lissa": lissa}  # fmt: skip


def _solver(risk, damping, kind, batch_size, bound, **settings):
    """Solve by a module of its; ValueError where it ends at a relative residual above `bound`."""
    batch_size = whole(batch_size, "batch_size")
    risk.check_gradients()
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
                device=risk.theta.device, damp=damping, **settings,
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
        residual = relative_residual(risk, damping, solved, right)
        if not residual <= bound:
            raise ValueError(
                f"torch-influence's {kind} ended at a relative residual of {residual:.2g}, above "
                f"{bound:.2g}: its settings do not solve this problem"
            )
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
    damping, memory = checks.radius(damping, "damping"), whole(memory, "memory")
    train, test = _joined(train_batches, "train"), _joined(test_batches, "test")
    chosen = chosen_parameters(model, parameters) if isinstance(model, nn.Module) else {}
    with plain(model):
        risk = ObjectiveRisk(objective, model, train, chosen, curvature, memory)
        solve = prepare(SOLVERS[method], method, risk, damping, solver)
        return influences(risk, solve, risk.see(test), risk.train, progress)


class Batches(Sample):
    """All batches as one: `x` and `y` are the same batch, of which an objective takes its own."""

    def __len__(self):
        return len(tree_leaves(self.x)[0])


def _joined(batches, what):
    batches = list(batches)
    if not batches:
        raise ValueError(f"{what}_batches must hold at least one batch, got none")
    joined = tree_map(lambda *parts: torch.cat(parts), *batches)
    if not (leaves := tree_leaves(joined)) or len({len(leaf) for leaf in leaves}) > 1:
        raise ValueError(
            f"the tensors of {what}_batches must hold as many examples each, got "
            f"{[list(leaf.shape) for leaf in leaves]}"
        )
    if not len(leaves[0]):
        raise ValueError(f"{what}_batches must hold at least one example, got none")
    return Batches(joined, joined)


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

    def fit(self, sample, what):
        fit = tree_map(lambda t: as_given(t, f"the input of {what}", self.theta), sample.x)
        return Batches(fit, fit)

    def network(self, theta, x):
        outputs = functional_call(self.model, self.named(theta), (None, tree_map(torch.clone, x)))
        if not torch.is_tensor(outputs):
            raise ValueError(f"train_outputs must give a tensor, got {type(outputs).__name__}")
        return outputs

    outputs = network

    def loss(self, outputs, y):
        def one(output, batch):
            batch = tree_map(lambda t: t[None].clone(), batch)
            return self.objective.train_loss_on_outputs(outputs=output[None], batch=batch)

        return vmap(one)(outputs, y)

    def test_losses(self, theta, x, y):
        x = tree_map(torch.clone, x)
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
