"""The regularised training risk as a function of a flat vector theta, for influence functions.

R(theta) = mean of the training losses + (l2 / 2) |theta|^2, the loss the cross-entropy against
(soft) labels. Gradients of single examples, products with the curvature of R and scores are made
in chunks that a budget of memory holds.
"""

import math
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._pytree import tree_map

MEMORY = 2 * 2**30


def take(sample, index):
    """The examples of `sample` at `index`, a slice or indices."""
    return type(sample)(*(tree_map(lambda t: t[index], part) for part in (sample.x, sample.y)))


def finite(rows, what, places=None):
    """`rows` `[s, ...]`; ValueError that names the first example whose row is not finite.

    places: the number of each row's example where it is not the row's own.
    """
    if rows.isfinite().all():
        return rows
    row = (~rows.isfinite().flatten(1).all(1)).nonzero()[0, 0].item()
    raise ValueError(f"{what} {row if places is None else int(places[row])} is not finite")


def whole(value, what, least=1):
    """An integer setting, NumPy's as well as Python's."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be an integer >= {least}, got {value!r}")
    return int(value)


def positive(value, what):
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{what} must be a finite number > 0, got {value!r}")
    return float(value)


def share_of_one(value, what):
    """A setting between 0 and 1, neither of them one."""
    if not isinstance(value, Real) or not 0 < value < 1:
        raise ValueError(f"{what} must be a number > 0 and < 1, got {value!r}")
    return float(value)


def fitting(sample, what, classes, like):
    """The sample in the precision of `like`; a ValueError says what does not fit.

    y must be float `[s, classes]`. That of a "training point" must be probabilities, for the
    curvature is theirs; elsewhere the loss is linear in y, and rows may be any weights.
    """
    x, y = sample.x, sample.y
    if not (torch.is_tensor(y) and y.is_floating_point() and y.shape == (len(x), classes)):
        got = f"{y.dtype} {list(y.shape)}" if torch.is_tensor(y) else type(y).__name__
        raise ValueError(
            f"labels must be float [{len(x)}, {classes}], one row of class probabilities for each "
            f"{what}, got {got}"
        )
    x, label = as_given(x, f"the input of {what}", like), f"the label of {what}"
    rounding = max(1e-4, classes * torch.finfo(y.dtype).eps)
    y = as_given(y, label, like)
    wrong = (y < 0).any(1) | ((y.sum(1) - 1).abs() > rounding)
    if what == "training point" and wrong.any():
        row = wrong.nonzero()[0, 0].item()
        raise ValueError(
            f"{label} {row} must be class probabilities, >= 0 with sum 1, got "
            f"{[round(value, 4) for value in y[row].tolist()]}"
        )
    return type(sample)(x, y)


def as_given(t, what, like):
    """A tensor in the precision of `like`, made in no inference mode; refused if not finite."""
    if not torch.is_tensor(t):
        raise ValueError(f"{what}s must be a tensor, got {type(t).__name__}")
    if t.is_floating_point():
        t = finite(t, what).to(like.dtype)
    return t.clone() if t.is_inference() else t


def count_classes(outputs):
    """k of the outputs for one example; ValueError if they are not logits `[1, k]`, k >= 2."""
    if torch.is_tensor(outputs) and outputs.ndim == 2 and len(outputs) == 1 < outputs.shape[1]:
        return outputs.shape[1]
    got = list(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
    raise ValueError(
        f"the network must give logits [s, k] of at least 2 classes, got {got} for one example"
    )


class Risk:
    """The training risk in `theta` `[d]`; gradients and products are by automatic differentiation.

    Vectors are rows: `[m, d]`. The regulariser is in products and in `share`, not in `gradients`.
    """

    batch = 200  # at most, of examples at once on a CPU: what its caches hold
    classes = None  # of the network's outputs, once they are known
    graph = 6  # bytes that a graph for products takes, by those that a forward pass saves

    def __init__(
        self, model, train, chosen, l2, curvature, memory, chunk_size, what="training point"
    ):
        self.model, self.l2, self.n, self.what = model, l2, len(train), what
        self.curvature, self.memory, self.chunk_size = curvature, memory, chunk_size
        self.shapes = {name: value.shape for name, value in chosen.items()}
        self.theta = torch.cat([value.flatten() for value in chosen.values()])
        self.row = self.theta.numel() * self.theta.element_size()  # bytes of a vector
        self.train = self.fit(train, what)
        self.one, self._saved = take(self.train, slice(0, 1)), None

    def fit(self, sample, what):
        """The sample as the risk's functions can take it; ValueError says what does not fit."""
        if self.classes is None:
            first = as_given(sample.x[:1], f"the input of {what}", self.theta)
            with torch.no_grad():
                self.classes = count_classes(self.network(self.theta, first))
        return fitting(sample, what, self.classes, self.theta)

    def see(self, sample, what="test point"):
        """The sample, `what` its examples are called, as `gradients` and `scores` take it."""
        return self.fit(sample, what)

    # -------------------------------------------------------------------------- the functions

    def named(self, theta):
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}

    def network(self, theta, x):
        # A copy: a network may change its input where it lies, and it is the caller's.
        return functional_call(self.model, self.named(theta), (x.clone(),))

    outputs = network  # of a sample that was seen

    def loss(self, outputs, y):
        return F.cross_entropy(outputs, y, reduction="none")

    def losses(self, theta, x, y):
        """The loss of each example without the regulariser, `[s]`."""
        return self.loss(self.outputs(theta, x), y)

    test_losses = losses

    def share(self):
        """The gradient of the regulariser, `[d]`: its share in each training point's gradient."""
        return self.l2 * self.theta

    def share_products(self, vectors):
        return self.l2 * vectors

    # -------------------------------------------------------------------------- memory

    def saved(self):
        """Bytes that a forward pass of one example saves for its backward pass."""
        if self._saved is None:
            theta, sizes = self.theta.clone().requires_grad_(), {}
            own = theta.untyped_storage().data_ptr()

            def pack(tensor):
                if tensor.untyped_storage().data_ptr() != own:
                    sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
                return tensor

            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                self.loss(self.network(theta, self.one.x), self.one.y)
            self._saved = sum(sizes.values())
        return self._saved

    def chunks(self, sample, each, fixed=0, what="one example's gradient"):
        """Indices of consecutive chunks whose examples take `each` bytes besides `fixed` ones."""
        size = (self.memory - fixed) // max(each, 1)
        if size < 1:
            raise ValueError(
                f"memory={self.memory} bytes do not hold {what}: it takes at least {fixed + each}"
            )
        limit = self.batch if self.theta.device.type == "cpu" else 10 * self.batch
        size = min(size, limit, self.chunk_size or size)
        return [slice(i, min(i + size, len(sample))) for i in range(0, len(sample), size)]

    def gradient_chunks(self, sample, vectors=0):
        """Chunks of a sample whose gradients fit beside so many vectors."""
        return self.chunks(sample, 3 * self.row + 2 * self.saved(), vectors * self.row)

    score_chunks = gradient_chunks

    def block(self, count, copies):
        """How many vectors of which `copies` are held at once fit in half of the memory."""
        size = self.memory // 2 // (copies * self.row)
        if size < 1:
            raise ValueError(
                f"memory={self.memory} bytes do not hold the vectors of one solve: it takes at "
                f"least {2 * copies * self.row}"
            )
        return min(size, max(count, 1))

    # -------------------------------------------------------------------------- gradients

    def gradients(self, sample, test=False):
        """The gradient of each example's loss (or test loss), one chunk at once, `[s, d]`."""
        losses = self.test_losses if test else self.losses

        def one(theta, x, y):
            single = take(type(sample)(x, y), None)
            return losses(theta, single.x, single.y)[0]

        return vmap(grad(one), in_dims=(None, 0, 0))(self.theta, sample.x, sample.y)

    def scores(self, vectors, sample):
        """g_i . v without the regulariser for each row v and each example of a chunk, `[m, s]`."""
        return vectors @ self.gradients(sample).T

    def perturbation_chunks(self, sample, x, vectors=1):
        """Chunks of points, or of vectors, whose pairs with so many `vectors` memory holds."""
        pair = 6 * self.saved() + 4 * x[:1].numel() * x.element_size() + self.row
        return self.chunks(sample, vectors * pair, what="one pair's perturbation")

    def perturbations(self, vectors, sample):
        """d_x (g_i(x) . v) for each row v and each example of a chunk, `[m, s, *x.shape[1:]]`."""

        def slope(vector, x, y):
            def loss(theta):
                return self.loss(self.network(theta, x[None]), y[None])[0]

            return jvp(loss, (self.theta,), (vector,))[1]

        over = vmap(vmap(grad(slope, argnums=1), in_dims=(None, 0, 0)), in_dims=(0, None, None))
        return over(vectors, sample.x, sample.y)

    def check_gradients(self):
        """ValueError that names the first training point whose gradient is not finite."""
        for part in self.gradient_chunks(self.train):
            places = range(part.start, part.stop)
            finite(self.gradients(take(self.train, part)), f"the gradient of {self.what}", places)

    # -------------------------------------------------------------------------- curvature

    def products(self, vectors, sample=None):
        """H v for each row v, H of the whole training sample or of the mean over `sample`.

        The graph of a chunk's gradient is made once and walked for every vector.
        """
        sample = self.train if sample is None else sample
        total = torch.zeros_like(vectors)
        fixed = (3 + len(vectors)) * self.row
        for chunk in self.chunks(sample, self.graph * self.saved(), fixed, "one example's graph"):
            part = take(sample, chunk)
            with torch.enable_grad():
                product = self._linearised(part)
                for row, vector in zip(total, vectors, strict=True):
                    row += product(vector)
        return self.curved(total / len(sample) + self.share_products(vectors))

    def curved(self, values):
        """What was made of the curvature; a ValueError names the point that makes it not finite."""
        if values.isfinite().all():
            return values
        self.check_gradients()
        raise ValueError("the curvature of the training risk is not finite")

    def _linearised(self, part):
        theta = self.theta.clone().requires_grad_()
        if self.curvature == "hessian":
            (slope,) = torch.autograd.grad(
                self.losses(theta, part.x, part.y).sum(), theta, create_graph=True
            )
            return lambda v: torch.autograd.grad(slope, theta, v, retain_graph=True)[0]
        # J v is the derivative of w -> J' w along v, which needs no forward mode of any layer.
        outputs = self.outputs(theta, part.x)
        w = torch.zeros_like(outputs, requires_grad=True)
        (back,) = torch.autograd.grad(outputs, theta, w, create_graph=True)
        z = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(z, part.y).sum(), z, create_graph=True)

        def product(v):
            (tangent,) = torch.autograd.grad(back, w, v, retain_graph=True)
            (curved,) = torch.autograd.grad(slope, z, tangent, retain_graph=True)
            return torch.autograd.grad(outputs, theta, curved, retain_graph=True)[0]

        return product

    def check_dense(self):
        d = len(self.theta)
        if 3 * d * self.row > self.memory:
            raise ValueError(
                f"memory={self.memory} bytes do not hold the dense Hessian of {d} parameters: it "
                f"takes at least {3 * d * self.row}"
            )
        return d

    def hessian(self):
        """The dense curvature `[d, d]`."""
        d = self.check_dense()
        dense = torch.eye(d, dtype=self.theta.dtype, device=self.theta.device)
        for start in range(0, d, 256):
            dense[start : start + 256] = self.products(dense[start : start + 256])
        return self.curved((dense + dense.T) / 2)

    def curvature_rows(self, rank):
        """At most `rank` rows r whose sum of r r' is near the Gauss-Newton matrix, `[rank, d]`.

        Those of the largest weights: sqrt(w) J_i' u / sqrt(n) over the eigenpairs (w, u) of the
        loss's Hessian in the outputs of example i.
        """
        x, y = self.train.x, self.train.y
        passes = self.chunks(self.train, self.saved(), what="one example's forward pass")
        q = torch.cat([self.outputs(self.theta, x[part]) for part in passes]).softmax(1)
        finite(q, f"the network's output at {self.what}")
        top, directions = largest_directions(q, y, rank)
        rows = q.new_empty(len(top), len(self.theta))

        def one(theta, x, u):
            return (self.outputs(theta, x[None])[0] * u).sum()

        each = vmap(grad(one), in_dims=(None, 0, 0))
        for part in self.chunks(top, 3 * self.row + 2 * self.saved(), rank * self.row):
            rows[part] = each(self.theta, x[top[part]], directions[part])
        return rows / self.n**0.5


def largest_directions(q, y, rank):
    """The examples `[r]` and scaled eigenvectors `[r, k]` of the largest diag(q) - q q'."""
    curved = (torch.diag_embed(q) - q[:, :, None] * q[:, None]) * y.sum(1)[:, None, None]
    weights, directions = torch.linalg.eigh(curved)
    top = weights.flatten().topk(min(rank, weights.numel())).indices
    example, which = top // q.shape[1], top % q.shape[1]
    scale = weights[example, which].clamp(min=0).sqrt()
    return example, directions[example, :, which] * scale[:, None]
