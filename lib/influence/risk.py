"""The regularised training risk as a function of a flat vector theta, for influence functions.

R(theta) = mean of the training losses + (l2 / 2) |theta|^2, the loss the cross-entropy against
(soft) labels. Gradients of single examples, products with the curvature of R and scores are made
in chunks that a budget of memory holds.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._pytree import tree_map

MEMORY = 2 * 2**30


def take(sample, index):
    """The examples of `sample` at `index`, a slice or indices."""
    return type(sample)(*(tree_map(lambda t: t[index], part) for part in (sample.x, sample.y)))


class Risk:
    """The training risk in `theta` `[d]`; gradients and products are by automatic differentiation.

    Vectors are rows: `[m, d]`. The regulariser is in products and in `share`, not in `gradients`.
    """

    batch = 200  # at most, of examples at once on a CPU: what its caches hold
    graph = 6  # bytes that a graph for products takes, by those that a forward pass saves

    def __init__(self, model, train, chosen, l2, curvature, memory, chunk_size):
        self.model, self.train, self.l2, self.n = model, train, l2, len(train)
        self.curvature, self.memory, self.chunk_size = curvature, memory, chunk_size
        self.shapes = {name: value.shape for name, value in chosen.items()}
        self.theta = torch.cat([value.flatten() for value in chosen.values()])
        self.row = self.theta.numel() * self.theta.element_size()  # bytes of a vector
        self.one, self._saved = take(train, slice(0, 1)), None

    def see(self, sample):
        """The sample as `gradients`, `scores` and `products` take it."""
        return sample

    # -------------------------------------------------------------------------- the functions

    def named(self, theta):
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}

    def network(self, theta, x):
        return functional_call(self.model, self.named(theta), (x,))

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
        return total / len(sample) + self.share_products(vectors)

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
        return (dense + dense.T) / 2

    def curvature_rows(self, rank):
        """At most `rank` rows r whose sum of r r' is near the Gauss-Newton matrix, `[rank, d]`.

        Those of the largest weights: sqrt(w) J_i' u / sqrt(n) over the eigenpairs (w, u) of the
        loss's Hessian in the outputs of example i.
        """
        x, y = self.train.x, self.train.y
        passes = self.chunks(self.train, self.saved(), what="one example's forward pass")
        q = torch.cat([self.outputs(self.theta, x[part]) for part in passes]).softmax(1)
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
