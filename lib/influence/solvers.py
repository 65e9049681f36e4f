"""Ways to solve (H + damping I) s = g for many g at once: rows `[m, d]` -> rows `[m, d]`.

Each takes a Risk, prepares what it can before any g is known, and returns the function that
solves. H is the curvature of the training risk, its regulariser included.
"""

import inspect

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from tqdm.auto import tqdm

from lib.influence.risk import finite, positive, share_of_one, take, whole

RANK = 512  # directions of the preconditioner: more did not save an iteration
DENSE = 3000  # parameters up to which the eigenvalues of a dense matrix are the quickest


class NotPositiveDefinite(ValueError):
    """The Hessian has a direction of negative or no curvature: influence is not defined there."""

    def __init__(self, smallest, damping, resolved=0.0):
        """resolved: what is not above it can't be told from zero, in the precision of H."""
        above = 1.005 * (damping - smallest) if smallest < -resolved else damping + 2 * resolved
        super().__init__(
            f"H + damping I is not positive definite: its smallest eigenvalue is {smallest:.3g}; a "
            f"damping above {above:.3g} makes it so, at the price of another H"
        )
        self.smallest = smallest


def exact(risk, damping):
    """The dense Hessian and its Cholesky factor."""
    dense = risk.hessian()
    dense.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(dense)
    pivots = factor.diagonal().square()
    if info or pivots.min() <= resolution(pivots):
        values = torch.linalg.eigvalsh(dense)
        raise NotPositiveDefinite(values[0].item(), damping, resolution(values))
    return lambda right: torch.cholesky_solve(right.T, factor).T


def resolution(values):
    """What can't be told from zero beside the largest of a matrix's eigenvalues, or pivots."""
    return 4 * values.numel() ** 0.5 * torch.finfo(values.dtype).eps * values.max().item()


def cg(risk, damping, tolerance=1e-8, iterations=1000, rank=RANK):
    """Conjugate gradients, preconditioned by the largest `rank` directions of Gauss-Newton."""
    tolerance, iterations = share_of_one(tolerance, "tolerance"), whole(iterations, "iterations")
    precondition = gauss_newton_inverse(risk, damping, whole(rank, "rank", 0))

    def solve(right):
        def product(v):
            return risk.products(v) + damping * v

        return conjugate_gradients(
            product, right, tolerance=tolerance, iterations=iterations,
            precondition=precondition, damping=damping,
        )  # fmt: skip

    return solve


def gauss_newton_inverse(risk, damping, rank):
    """v -> (J'J + c I)^-1 v for rows J of the largest curvature, by Woodbury's identity; or None.

    c is damping + l2: all that H is sure to have in every direction.
    """
    rank = min(rank, risk.memory // (8 * risk.row))
    rows = risk.curvature_rows(rank) if rank else None
    if rows is None or not len(rows):
        return None
    c = max(damping + risk.l2, 1e-6 * rows.square().sum().item() / len(rows))
    tall = len(rows) >= rows.shape[1]
    inner = rows.T @ rows if tall else rows @ rows.T
    inner.diagonal().add_(c)
    factor, info = torch.linalg.cholesky_ex(inner)
    if info:
        return None
    if tall:
        return lambda v: torch.cholesky_solve(v.T, factor).T
    return lambda v: (v - torch.cholesky_solve(rows @ v.T, factor).T @ rows) / c


def conjugate_gradients(
    product, right, *, tolerance=1e-8, iterations=1000, precondition=None, damping=0.0
):
    """Solve A s = r for each row r of `right` `[m, d]`; `product` multiplies rows by A.

    Block conjugate gradients (O'Leary 1980) with orthonormal directions: each step minimises over
    those of all rows together, and a row leaves when its relative residual is below `tolerance`.

    Raises NotPositiveDefinite when it meets negative curvature, naming the smallest eigenvalue,
    and ValueError when a residual is still above `tolerance` after `iterations`.
    """
    tolerance, iterations = share_of_one(tolerance, "tolerance"), whole(iterations, "iterations")
    precondition = precondition or (lambda v: v)
    solution, residual = torch.zeros_like(right), finite(right, "right side").clone()
    size = right.norm(dim=1)
    active = size > 0
    directions = images = factor = None
    for _ in range(iterations):
        if not active.any():
            return solution
        steepest = precondition(residual[active])
        if directions is not None:
            steepest -= torch.cholesky_solve(images @ steepest.T, factor).T @ directions
        directions = torch.linalg.qr(steepest.T).Q.T
        images = product(directions)
        inner = directions @ images.T
        factor, info = torch.linalg.cholesky_ex((inner + inner.T) / 2)
        if info:
            least = lanczos(product, right[0], "SA", start=torch.linalg.eigh(inner)[1][:, 0]
                            @ directions)  # fmt: skip
            raise NotPositiveDefinite(least, damping)
        lengths = torch.cholesky_solve(directions @ residual[active].T, factor).T
        solution[active] += lengths @ directions
        residual[active] -= lengths @ images
        active = residual.norm(dim=1) > tolerance * size
    if not active.any():
        return solution
    worst = (residual.norm(dim=1) / size.clamp(min=1e-300)).max().item()
    raise ValueError(
        f"conjugate gradients stopped after {iterations} iterations at a relative residual of "
        f"{worst:.2g}, above tolerance={tolerance:g}"
    )


def lissa(risk, damping, depth=2000, repeat=1, scale=None, batch_size=100, generator=None,
          tolerance=0.2):  # fmt: skip
    """The Neumann series of stochastic products (Agarwal et al. 2017; Koh and Liang 2017).

    s <- g + s - (H_b + damping I) s / scale over `depth` batches drawn with replacement, then
    s / scale, averaged over `repeat` runs. scale must exceed the largest eigenvalue of the batches'
    H + damping I; by default it is twice that of a few power iterations on batches.

    Raises ValueError where it diverges, or ends at a relative residual above `tolerance`: about
    what its scores are off by.
    """
    depth, repeat = whole(depth, "depth"), whole(repeat, "repeat")
    batch_size, tolerance = whole(batch_size, "batch_size"), share_of_one(tolerance, "tolerance")
    generator = generator or torch.Generator(risk.theta.device).manual_seed(0)

    def batch():
        chosen = torch.randint(risk.n, (batch_size,), generator=generator, device=risk.theta.device)
        return take(risk.train, chosen)

    scale = 2 * _largest(risk, batch) + damping if scale is None else scale
    scale = positive(scale, "scale")

    def solve(right):
        size, total = right.norm(dim=1), torch.zeros_like(right)
        for _ in range(repeat):
            s = right.clone()
            for _ in range(depth):
                s = right + s - (risk.products(s, batch()) + damping * s) / scale
                if not (s.norm(dim=1) <= 1e8 * size).all():
                    raise _diverged(scale, damping)
            total += s
        s = total / (repeat * scale)
        residual = relative_residual(risk, damping, s, right)
        if not residual < 1:
            raise _diverged(scale, damping)
        if residual > tolerance:
            raise ValueError(
                f"LiSSA stopped at a relative residual of {residual:.2g}, above "
                f"tolerance={tolerance:g}: with scale={scale:.3g} it needs more depth, or, where "
                "noise is what is left, repeat or batch_size"
            )
        return s

    return solve


def _diverged(scale, damping):
    return ValueError(
        f"LiSSA diverged at scale={scale:.3g}, damping={damping:g}: a larger scale (with more "
        "depth) or a larger damping keeps it from that"
    )


def _largest(risk, batch, steps=10):
    vector = torch.ones_like(risk.theta)[None] + risk.theta.sign()[None] / 2
    found = 0.0
    for _ in range(steps):
        vector = vector / vector.norm()
        vector = risk.products(vector, batch())
        found = max(found, vector.norm().item())
    return found


def arnoldi(risk, damping, rank=100, iterations=200, generator=None):
    """H on the span of its `rank` largest eigenvectors (Schioppa et al. 2022); g's rest is dropped.

    They are those of `iterations` steps of Lanczos, with full reorthogonalisation, from a random
    vector. Raises NotPositiveDefinite where these steps meet a direction that H + damping I has no
    positive curvature in, whether it would be kept or not.
    """
    rank, iterations = whole(rank, "rank"), whole(iterations, "iterations")
    if rank > iterations:
        raise ValueError(f"rank={rank} needs as many iterations at least, got {iterations=}")
    count = min(iterations, len(risk.theta))
    if (count + 2) * risk.row > risk.memory:
        raise ValueError(
            f"memory={risk.memory} bytes do not hold {count} iterations of method 'arnoldi': "
            f"they take at least {(count + 2) * risk.row}"
        )
    basis, inner = _krylov(risk.products, risk.theta, count, generator)
    values, vectors = torch.linalg.eigh(inner)
    values = values + damping
    if values[0] <= resolution(values):
        raise NotPositiveDefinite(values[0].item(), damping, resolution(values))
    keep = values[-min(rank, len(values)) :]
    kept = vectors[:, -len(keep) :].T @ basis
    return lambda right: (right @ kept.T / keep) @ kept


def _krylov(products, like, count, generator):
    """An orthonormal basis `[c, d]` of a Krylov space, and the lower half of H in it `[c, c]`."""
    generator = generator or torch.Generator(like.device).manual_seed(0)
    vector = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    basis, inner = like.new_zeros(count, len(like)), like.new_zeros(count, count)
    for i in range(count):
        size = vector.norm()
        for _ in range(2):  # twice is enough
            vector = vector - (basis[:i] @ vector) @ basis[:i]
        if vector.norm() <= 100 * torch.finfo(like.dtype).eps * size:
            return basis[:i], inner[:i, :i]  # an invariant subspace
        basis[i] = vector / vector.norm()
        vector = products(basis[i : i + 1])[0]
        inner[i, : i + 1] = basis[: i + 1] @ vector
    return basis, inner


def identity(risk, damping):
    """No Hessian at all."""
    return lambda right: right


SOLVERS = {f.__name__: f for f in (exact, cg, lissa, arnoldi, identity)}


def influences(risk, solve, test, points, progress=False, what="training point"):
    """I_up,loss `[n_test, n_points]` = -s_test' g of samples that the risk has seen.

    Streamed: a block of test points is solved for, then met with the points chunk by chunk.
    """
    found = risk.theta.new_empty(len(test), len(points))
    share = risk.share()
    for block, s in solved(risk, solve, test, progress):
        for part in risk.score_chunks(points, len(s)):
            found[block, part] = risk.scores(s, take(points, part))
        found[block] += (s @ share)[:, None]
    finite(found.T, f"the gradient of {what}")
    return found.neg_()


def solved(risk, solve, sample, progress=False, copies=8, what="test point"):
    """For each block of test points that memory holds: its indices and (H + damping I)^-1 g."""
    size = risk.block(len(sample), copies)
    blocks = [slice(i, min(i + size, len(sample))) for i in range(0, len(sample), size)]
    for block in tqdm(blocks, "influence", unit="block", disable=not progress, leave=False):
        part = take(sample, block)
        rows = [
            risk.gradients(take(part, chunk), test=True)
            for chunk in risk.gradient_chunks(part, len(part))
        ]
        places = range(block.start, block.stop)
        yield block, solve(finite(torch.cat(rows), f"the gradient of {what}", places))


def prepare(function, method, risk, damping, settings):
    """The solver; ValueError for a setting that it does not have."""
    known = list(inspect.signature(function).parameters)[2:]
    unknown = [name for name in settings if name not in known]
    if unknown:
        allowed = f"the settings {', '.join(known)}" if known else "no settings"
        raise ValueError(f"method {method!r} takes {allowed}, got {', '.join(unknown)}")
    return function(risk, damping, **settings)


def relative_residual(risk, damping, solved, right):
    """The largest |(H + damping I) s - g| / |g| over the rows."""
    rest = (risk.products(solved) + damping * solved - right).norm(dim=1)
    size = right.norm(dim=1)
    return (rest / torch.where(size > 0, size, 1)).max().item() if len(right) else 0.0


def lanczos(product, like, which, start=None, tolerance=1e-2):
    """The smallest ("SA") or largest ("LA") eigenvalue of a symmetric operator on rows.

    The bound that Lanczos's own residual leaves: the smallest one is not below it, the largest not
    above.
    """
    d = len(like)

    def matvec(vector):
        row = torch.as_tensor(vector.reshape(1, -1), dtype=like.dtype, device=like.device)
        return product(row)[0].double().cpu().numpy()

    if d <= 20:
        eye = torch.eye(d, dtype=like.dtype, device=like.device)
        values = torch.linalg.eigvalsh(product(eye))
        return values[0 if which == "SA" else -1].item()
    operator = LinearOperator((d, d), matvec=matvec, dtype=np.float64)
    v0 = np.random.default_rng(0).normal(size=d) if start is None else start.double().cpu().numpy()
    try:
        values, vectors = eigsh(operator, k=1, which=which, v0=v0, tol=tolerance, maxiter=100)
    except ArpackNoConvergence as error:
        raise ValueError(f"Lanczos did not find the {which} eigenvalue of H: {error}") from None
    residual = np.linalg.norm(matvec(vectors[:, 0]) - values[0] * vectors[:, 0])
    return float(values[0] + (residual if which == "LA" else -residual))
