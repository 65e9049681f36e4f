"""The training risk in the last linear layer, where everything about it is known in closed form.

A gradient is (q - y) (x) a and the Hessian the mean of (diag(q) - q q') (x) (a a'), of the
probabilities q and the layer's input a: neither needs the other layers again once a is known.
"""

from contextlib import contextmanager

import torch
from torch import nn

from lib import checks
from lib.attacks.threat import frozen
from lib.influence.risk import MEMORY, Risk, as_given, finite, largest_directions, take, whole

PRECISIONS = {torch.float32, torch.float64}
CURVATURES = ("hessian", "gauss-newton")


def chosen_parameters(model, parameters=None):
    """The values by name: of all that are trained, of the "last" linear layer, or of those named.

    Trained are those that ask for a gradient; names say what is meant whether they do or not.
    ValueError for an unknown name, which lists the known ones.
    """
    every = dict(model.named_parameters())
    names = parameters
    if parameters is None:
        names = [name for name, parameter in every.items() if parameter.requires_grad]
        if every and not names:
            raise ValueError(
                "all of the network's parameters are frozen (requires_grad=False): name those that "
                "are meant in parameters"
            )
    if parameters == "last":
        names = _names(*last_linear(model))
        if not names:
            raise ValueError("parameters='last' needs a linear layer, and the network has none")
    elif isinstance(parameters, str):
        raise ValueError(f"parameters must be None, 'last' or a list of names, got {parameters!r}")
    unknown = [name for name in names if name not in every]
    if unknown or not names or len(set(names)) < len(names):
        what = (
            f"unknown parameters {unknown}" if unknown else f"parameters {list(names)} are no set"
        )
        raise ValueError(f"{what}: choose among {', '.join(every)}")
    return {name: every[name].detach() for name in names}


def _names(path, layer):
    own = [] if layer is None else [name for name, _ in layer.named_parameters()]
    return [f"{path}.{name}" if path else name for name in own]


@contextmanager
def plain(model):
    """The network in eval mode, outside inference mode and autocast, where no gradient is kept.

    ValueError where it is none that influence can be right about.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"influence needs a network that is an nn.Module, got {model!r}")
    tensors = [*model.parameters(), *model.buffers()]
    kinds = {t.dtype for t in model.parameters() if t.is_floating_point() or t.is_complex()}
    if len(kinds) != 1 or not kinds <= PRECISIONS:
        got = " and ".join(sorted(map(str, kinds))) or "no parameters"
        raise ValueError(f"influence needs a network in single or double precision, got {got}")
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError("the network was made under torch.inference_mode(): make it outside")
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise ValueError("the network's parameters are not all finite numbers")
    autocast = torch.autocast(tensors[0].device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast, frozen(model):
        yield


@contextmanager
def risk_in(model, train, *, parameters=None, **settings):
    """The Risk that `risk_of` gives, of the network as `plain` has it."""
    if isinstance(model, nn.Module):  # before they are frozen
        parameters = list(chosen_parameters(model, parameters))
    with plain(model):
        yield risk_of(model, train, parameters=parameters, **settings)


def risk_of(model, train, *, l2=0.0, parameters=None, curvature="hessian", memory=MEMORY,
            chunk_size=None, what="training point"):  # fmt: skip
    """The Risk in the parameters that are named: in closed form where they allow it.

    parameters: as `chosen_parameters` has them; the others are constants. what: how errors call an
    example.
    """
    l2 = checks.radius(l2, "l2")
    checks.one_of(curvature, CURVATURES, "curvature")
    memory = whole(memory, "memory")
    if chunk_size is not None:
        chunk_size = whole(chunk_size, "chunk_size")
    if not len(train):
        raise ValueError(f"the sample of {what}s holds no example")
    chosen = chosen_parameters(model, parameters)
    settings = (model, train, chosen, l2, curvature, memory, chunk_size, what)
    path, layer = last_linear(model)
    first = as_given(train.x[:1], f"the input of {what}", next(iter(chosen.values())))
    if list(chosen) == _names(path, layer) and _gives_outputs(model, layer, first):
        return LinearRisk(*settings, layer=layer)
    return Risk(*settings)


class LinearRisk(Risk):
    """The risk in the weight and bias of the linear layer that gives the outputs.

    It sees a sample as the layer's inputs with a 1 for the bias, `[s, p]`.
    """

    batch = 5000

    def __init__(self, *settings, layer):
        super().__init__(*settings)
        self.layer = layer
        self.classes, self.width = layer.weight.shape
        self.train = self._inputs(self.train, self.what)

    def see(self, sample, what="test point"):
        return self._inputs(self.fit(sample, what), what)

    def _inputs(self, sample, what):
        if self.layer is self.model:
            found = [sample.x]
        else:
            found, chunks = [], self.chunks(sample, self.saved(), what="one forward pass")
            hook = self.layer.register_forward_pre_hook(lambda _, args: found.append(args[0]))
            try:
                with torch.no_grad():
                    for part in chunks:
                        self.model(sample.x[part].clone())
            finally:
                hook.remove()
        a = torch.cat(found) if found else sample.x.new_empty(0, self.width)
        if self.layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[:, :1])], 1)
        return type(sample)(finite(a, f"the last layer's input of {what}"), sample.y)

    def outputs(self, theta, x):
        return x @ self.matrices(theta[None])[0].T

    def matrices(self, vectors):
        """Rows `[m, d]` as matrices `[m, k, p]`, the bias their last column."""
        split = self.classes * self.width
        weight = vectors[:, :split].view(-1, self.classes, self.width)
        if self.layer.bias is None:
            return weight
        return torch.cat([weight, vectors[:, split:, None]], 2)

    def vectors(self, matrices):
        weight = matrices[:, :, : self.width].flatten(1)
        return torch.cat([weight, matrices[:, :, self.width :].flatten(1)], 1)

    def score_chunks(self, sample, vectors):
        each = (self.classes * (vectors + 2) + self.width) * self.theta.element_size()
        return self.chunks(sample, each, vectors * self.row)

    def residuals(self, sample):
        q = self.outputs(self.theta, sample.x).softmax(1)
        return q * sample.y.sum(1, keepdim=True) - sample.y

    def gradients(self, sample, test=False):
        return self.vectors(self.residuals(sample)[:, :, None] * sample.x[:, None])

    def scores(self, vectors, sample):
        images = self.matrices(vectors) @ sample.x.T  # [m, k, s]
        return (images * self.residuals(sample).T).sum(1)

    def products(self, vectors, sample=None):
        sample = self.train if sample is None else sample
        matrices, m = self.matrices(vectors), len(vectors)
        total = torch.zeros_like(matrices)
        each = 4 * m * self.classes * self.theta.element_size()
        for chunk in self.chunks(sample, each, 2 * m * self.row, "one example's products"):
            part = take(sample, chunk)
            q = self.outputs(self.theta, part.x).softmax(1).T
            images = matrices @ part.x.T
            images = q * (images - (q * images).sum(1, keepdim=True)) * part.y.sum(1)
            total += images @ part.x
        return self.curved(self.vectors(total) / len(sample) + self.l2 * vectors)

    def hessian(self):
        """Mean of (diag(q) - q q') (x) (a a'), rows in the order of weight, then bias."""
        d = self.check_dense()
        a, k = self.train.x, self.classes
        q, mass = self.outputs(self.theta, a).softmax(1), self.train.y.sum(1) / self.n
        p = a.shape[1]
        blocks = a.new_empty(k, p, k, p)
        for i in range(k):
            for j in range(i + 1):
                weight = q[:, i] * (float(i == j) - q[:, j]) * mass
                blocks[i, :, j] = blocks[j, :, i] = (a * weight[:, None]).T @ a
        order = self.vectors(torch.arange(d, device=a.device).view(1, k, p))[0]
        dense = blocks.view(d, d)[order][:, order]
        dense.diagonal().add_(self.l2)
        return self.curved(dense)

    def curvature_rows(self, rank):
        a, y = self.train.x, self.train.y
        q = finite(self.outputs(self.theta, a).softmax(1), f"the network's output at {self.what}")
        top, directions = largest_directions(q, y, rank)
        return self.vectors(directions[:, :, None] * a[top][:, None]) / self.n**0.5


def last_linear(model):
    """The name and module of the last linear layer, or None twice."""
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    return layers[-1] if layers else (None, None)


def is_plain(layer, kind=nn.Linear):
    """Whether the layer is one of torch's own kind in what it computes, from weight and bias alone.

    A subclass, a hook or a parametrisation (spectral norm, pruning) may make it another function.
    """
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    own = isinstance(layer, kind) and type(layer).forward is kind.forward
    return own and set(layer._parameters) == {"weight", "bias"} and not hooks


def _gives_outputs(model, layer, x):
    """Whether the layer's output `[s, k]` is the network's and nothing else uses its parameters."""
    if not is_plain(layer):
        return False
    if layer is model:
        return x.ndim == 2
    calls = []
    hook = layer.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
    try:
        with torch.no_grad():
            outputs = model(x.clone())
    finally:
        hook.remove()
    own = {id(parameter) for parameter in layer.parameters()}
    uses = sum(id(p) in own for m in model.modules() for p in m._parameters.values())
    last = len(calls) == 1 and calls[0][1] is outputs and calls[0][0].ndim == 2
    return last and uses == len(own)
