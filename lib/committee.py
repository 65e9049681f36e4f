"""Online learning of two layers: a soft committee on clusters that one layer cannot tell apart.

`online_learning` has one layer. Here K hidden units give f(xi) = sum_k a_k erf(w_k.xi - b_k), with
signs a_k that stay; clusters have their centres in a plane of few directions, so that they may lie
as those of "exclusive or" do. The loss is (f - tau)^2 / 2, each example is used once, as the attack
left it: moved by eps along f's gradient, to where tau f falls,

    w_k <- w_k - eta_w/N grad loss,    b_k <- b_k - eta_b/N d loss/db_k.

There are no equations in closed form, but the streams have an exact law here as well: of an example
only its parts along the directions and the weights matter, and the length of the rest.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from lib import checks
from lib.online_learning import _seed, _times

TINY = 1e-12


@dataclass(frozen=True)
class Layout:
    """Clusters: `centres` `[c, a]` along `a` orthonormal directions, `labels` and `shares` `[c]`.

    All have the variance `v` in every direction.
    """

    centres: tuple
    labels: tuple
    shares: tuple
    v: float = 1.0

    def __post_init__(self):
        c, _ = np.shape(self.centres)
        if not (len(self.labels) == len(self.shares) == c and set(self.labels) <= {-1, 1}):
            raise ValueError(f"there must be a label, -1 or 1, and a share for each of {c} centres")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares must be > 0 with sum 1, got {self.shares}")
        if not 0 < self.v < math.inf:
            raise ValueError(f"v must be a finite number > 0, got {self.v!r}")


def exclusive_or(rho=4.0, v=1.0):
    """Label 1 at +-rho/2 along one direction, -1 at +-rho/2 along another: no line parts them."""
    h = rho / 2
    return Layout(((h, 0), (-h, 0), (0, h), (0, -h)), (1, 1, -1, -1), (0.25,) * 4, v)


@dataclass
class Committees:
    """`runs` committees by their Gram matrix `[runs, a + K, a + K]` of directions and weights.

    `b` `[runs, K]` are the thresholds, `signs` `[K]` the output weights, `n` the dimensions.
    """

    gram: np.ndarray
    b: np.ndarray
    signs: np.ndarray
    n: int

    @property
    def a(self):
        return self.gram.shape[1] - len(self.signs)

    @property
    def overlaps(self):
        """R `[runs, K, a]`: how far each hidden unit points along each direction."""
        return self.gram[:, self.a :, : self.a]


def start(layout, signs, *, n, runs, length=0.5, generator):
    """Committees with weights of that `length` in random directions and no thresholds."""
    signs = np.asarray(signs, float)
    if signs.ndim != 1 or not len(signs) or not (np.abs(signs) == 1).all():
        raise ValueError("signs must be -1 or 1, one for each hidden unit")
    a, k = np.shape(layout.centres)[1], len(signs)
    checks.count(n, "n", a + k + 1)
    rng = np.random.default_rng(_seed(generator))
    w = rng.standard_normal((checks.count(runs, "runs"), k, n))
    w *= length / np.linalg.norm(w, axis=2, keepdims=True)
    vectors = np.concatenate([np.broadcast_to(np.eye(a, n), (runs, a, n)), w], 1)
    return Committees(vectors @ vectors.transpose(0, 2, 1), np.zeros((runs, k)), signs, n)


def learn(committees, layout, alpha, *, eta_w=1.0, eta_b=1.0, eps=0.0, generator):
    """The committees after the learning times `alpha` `[m]` (examples / n): a list of m.

    Exact in law for every n. `eps` is the length of the attack in training, 0 for none.
    """
    checks.radius(eps)
    alpha, rng = _times(alpha), np.random.default_rng(_seed(generator))
    now, done, found = committees, 0, []
    for stop in np.rint(alpha * committees.n).astype(int):
        for _ in range(stop - done):
            now = _step(now, layout, eta_w / now.n, eta_b / now.n, eps, rng)
        done = max(done, stop)
        found.append(now)
    return found


def _draw(committees, layout, rng):
    """Labels `[r]`, the example's products with all vectors `[r, a + K]`, its squared length."""
    runs, size = committees.gram.shape[:2]
    a = committees.a
    k = rng.choice(len(layout.shares), runs, p=layout.shares)
    tau, centre = np.asarray(layout.labels, float)[k], np.asarray(layout.centres, float)[k]
    root = np.linalg.cholesky(committees.gram + TINY * np.eye(size))
    z = math.sqrt(layout.v) * rng.standard_normal((runs, size))
    rest = layout.v * rng.chisquare(committees.n - size, runs)
    # Directions come first in the Gram matrix: their coordinates are the first of the root's.
    coordinates = z.copy()
    coordinates[:, :a] += centre
    products = (root @ coordinates[:, :, None])[:, :, 0]
    return tau, products, (coordinates**2).sum(1) + rest


def _slopes(x):
    return 2 / math.sqrt(math.pi) * np.exp(-x * x)


def _attacked(committees, tau, products, square, eps):
    """Products and squared length of the example moved by eps down tau times f's gradient."""
    a, gram = committees.a, committees.gram
    x = products[:, a:] - committees.b
    mix = committees.signs * _slopes(x)  # f's gradient is this mixture of the weights
    along = np.einsum("rk,rkj->rj", mix, gram[:, a:])  # its products with all vectors
    length = np.sqrt(np.einsum("rk,rk->r", mix, along[:, a:]).clip(TINY))
    move = -tau * eps / length
    inner = (mix * products[:, a:]).sum(1)
    square = square + 2 * move * inner + (move * length) ** 2
    return products + move[:, None] * along, square


def _step(committees, layout, rate_w, rate_b, eps, rng):
    a, gram = committees.a, committees.gram
    tau, products, square = _draw(committees, layout, rng)
    if eps:
        products, square = _attacked(committees, tau, products, square, eps)
    x = products[:, a:] - committees.b
    d = ((committees.signs * erf(x)).sum(1) - tau)[:, None] * committees.signs * _slopes(x)
    step = np.zeros(gram.shape[:2])
    step[:, a:] = rate_w * d
    # (u - s xi).(u' - s' xi) for all pairs of vectors, where directions have s = 0.
    cross = step[:, :, None] * products[:, None, :]
    gram = gram - cross - cross.transpose(0, 2, 1)
    gram = gram + square[:, None, None] * step[:, :, None] * step[:, None, :]
    return Committees(gram, committees.b + rate_b * d, committees.signs, committees.n)


def errors(committees, layout, *, eps=0.0, examples=2000, generator):
    """The share `[runs]` of examples on which each errs, moved by `eps` along its own gradient.

    By drawing that many examples anew for each committee; one step to first order, so a lower bound
    of what an attack of that length can do.
    """
    rng = np.random.default_rng(_seed(generator))
    wrong = np.zeros(len(committees.gram))
    for _ in range(checks.count(examples, "examples")):
        tau, products, square = _draw(committees, layout, rng)
        if eps:
            products, _ = _attacked(committees, tau, products, square, eps)
        f = (committees.signs * erf(products[:, committees.a :] - committees.b)).sum(1)
        wrong += tau * f <= 0
    return wrong / examples
