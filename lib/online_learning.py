"""Online learning on two clusters: standard and adversarial training that can be solved.

The data are a stream of examples xi in R^N, from p N(+rho/2 B, v1 I) with the label tau = +1 and
from (1 - p) N(-rho/2 B, v2 I) with tau = -1, |B| = 1. The model is erf(x), x = w.xi - b with
|w| = 1, and its loss (erf(x) - tau)^2 / 2. The worst perturbation of length eps goes along w:
xi~ = xi - tau eps w. Each example is used once, as the attack left it,

    w <- normalise(w - eta_w/N grad_w loss),    b <- b - eta_b/N d loss/db.

All that matters of w is R = w.B. As N grows, R and b as functions of alpha = examples / N follow
two ordinary differential equations, whose right sides are averages over one Gaussian number. The
model is M. Straat's; the loss is the usual one, the equations are derived here. Knows no torch,
but for the generator.

`order_parameters` solves the equations, `simulate` draws the stream for a finite N, and
`adversarial_error` says what a pair (R, b) is worth.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.integrate import odeint
from scipy.optimize import brentq, minimize_scalar
from scipy.special import erf, erfc, ndtr, owens_t

from lib import checks

ATTACKS = ("fixed", "random", "non-robust")
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
TAIL = 7.5  # standard deviations beyond which nothing counts: a normal law has 6e-14 there
CHUNK = 2000  # steps whose random numbers are drawn at once


@dataclass(frozen=True)
class Clusters:
    """Two Gaussian clusters: the share `prior` of the label +1, the distance `rho` of the centres,
    the variances `v1` of the label +1 and `v2` of -1 in every direction."""

    prior: float = 0.5
    rho: float = 2.0
    v1: float = 1.0
    v2: float = 1.0

    def __post_init__(self):
        if not isinstance(self.prior, Real) or not 0 < self.prior < 1:
            raise ValueError(f"prior must be a number between 0 and 1, got {self.prior!r}")
        checks.radius(self.rho, "rho")
        _positive(self.v1, "v1")
        _positive(self.v2, "v2")

    @property
    def sides(self):
        """(label, share, variance) of each cluster."""
        return (1, self.prior, self.v1), (-1, 1 - self.prior, self.v2)


@dataclass(frozen=True)
class Rule:
    """How it is learned: rates of the weights and of the bias, and whom the attack meets.

    attack: "fixed" moves every example by `eps`; "random" by a length of its own, uniform in
    [0, eps]; "non-robust" by `eps`, and only examples that are wrong then are learned from.
    eps = 0 is standard training (with "non-robust": from the wrong ones alone).
    """

    eta_w: float = 0.04
    eta_b: float = 0.2
    eps: float = 0.0
    attack: str = "fixed"

    def __post_init__(self):
        _positive(self.eta_w, "eta_w")
        checks.radius(self.eta_b, "eta_b")
        checks.radius(self.eps)
        checks.one_of(self.attack, ATTACKS, "attack")


def order_parameters(clusters, rule, alpha, *, R=0.0, b=0.0):
    """R and b at the learning times `alpha` `[m]`, as N grows: two arrays `[m]`.

    `R`, `b` are the values at alpha = 0. ValueError if |R| > 1 or `alpha` is not increasing.
    """
    alpha, start = _times(alpha), _start(R, b)

    def speed(_, state):
        return derivatives(clusters, rule, *state)

    times = alpha if alpha[0] == 0 else np.concatenate([[0.0], alpha])
    if len(times) == 1:
        return np.array([start[0]]), np.array([start[1]])
    path, info = odeint(
        speed, start, times, rtol=1e-9, atol=1e-10, mxstep=100_000, tfirst=True, full_output=True
    )
    if info["message"] != "Integration successful.":
        raise FloatingPointError(f"the equations could not be solved: {info['message']}")
    path = path[len(times) - len(alpha) :]
    return path[:, 0].clip(-1, 1), path[:, 1]


def derivatives(clusters, rule, R, b):
    """(dR/dalpha, db/dalpha) at R and b, numbers or arrays.

    An example moves R by what it has across w, which does not know x: rho/2 (1 - R^2) on average.
    Normalising takes back what it adds to the length of w, of which the noise leaves v d^2 / 2.
    """
    across = length = bias = 0.0
    for label, share, v in clusters.sides:
        d, squared = averages(clusters.rho * R / 2 - label * b, v, rule)
        across = across + share * d
        length = length + share * v * squared
        bias = bias + label * share * d
    turn = -rule.eta_w * clusters.rho / 2 * (1 - R * R) * across
    return turn - rule.eta_w**2 / 2 * R * length, rule.eta_b * bias


def averages(m, v, rule):
    """<d> and <d^2> over y ~ N(m, v), the clean tau x; d is tau times the loss's slope, attacked.

    By symmetry one function serves both labels: d(y) = -2/sqrt(pi) exp(-y^2) erfc(y). All are
    exact but for <d^2> under "random" and "non-robust", which are integrals over a bounded
    interval by Gauss and Legendre.
    """
    if rule.attack == "random" and rule.eps > 0:
        return _random(m, v, rule.eps)
    if rule.attack == "non-robust":
        return _non_robust(m - rule.eps, v)
    return _slope(m - rule.eps, v), _slope_squared(m - rule.eps, v)


def _slope(m, v):
    a = 1 + 2 * v
    gauss = 2 / math.sqrt(math.pi * a) * np.exp(-m * m / a)
    return -gauss * erfc(m / math.sqrt(a * (1 + 4 * v)))


def _slope_squared(m, v):
    a = 1 + 4 * v
    loss = _loss(m / a, v / a)  # exp(-2 y^2) times the density of N(m, v) is one of N(m/a, v/a)
    return 8 / (math.pi * math.sqrt(a)) * np.exp(-2 * m * m / a) * loss


def _loss(m, v):
    """The mean of (erf(y) - 1)^2 / 2 over y ~ N(m, v)."""
    h = m / math.sqrt(0.5 + v)
    return 1 - 4 * owens_t(h, 1 / math.sqrt(1 + 4 * v)) - erf(m / math.sqrt(1 + 2 * v))


def _random(m, v, largest):
    """Means over eps ~ U[0, largest]: of <d>, the slope of the mean loss, a difference quotient."""
    if largest < 1e-5:  # where the difference would lose its digits, all eps are nearly one
        return _slope(m - largest / 2, v), _slope_squared(m - largest / 2, v)
    squared = _integral(lambda at: _slope_squared(at, v), m - largest, m, math.sqrt(0.25 + v))
    slope = _loss(m, v) - _loss(m - largest, v)
    return slope / largest, squared / largest


def _non_robust(m, v):
    """<d; y < 0> from the bivariate normal P(y < 0, Z < sqrt(2) y), and <d^2; y < 0>."""
    a = 1 + 2 * v
    mu, s = m / a, math.sqrt(v / a)
    h, k = -mu / s, mu / math.sqrt(0.5 + s * s)
    both = (ndtr(h) + ndtr(k) - 1) / 2 + owens_t(k, 1 / (math.sqrt(2) * s))
    d = 4 / math.sqrt(math.pi * a) * np.exp(-m * m / a) * (both - ndtr(h))

    a = 1 + 4 * v
    mu, s = m / a, math.sqrt(v / a)

    def density(y):
        return erfc(y) ** 2 * np.exp(-(((y - mu) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

    squared = _integral(density, -np.inf, 0.0, s, mu)
    return d, 4 / (math.pi * math.sqrt(a)) * np.exp(-2 * m * m / a) * squared


def _integral(f, low, high, width, centre=0.0):
    """The integral of `f`, nothing beyond TAIL widths of its centre, by 64 nodes."""
    low = np.clip(low, centre - TAIL * width, centre + TAIL * width)
    high = np.clip(high, centre - TAIL * width, centre + TAIL * width)
    half, middle = (high - low) / 2, (high + low) / 2
    # The nodes come first, the places of m after: f broadcasts over both.
    nodes, weights = (part.reshape(-1, *[1] * np.ndim(half)) for part in (NODES, WEIGHTS))
    return (weights * f(middle + half * nodes)).sum(0) * half


def simulate(clusters, rule, alpha, *, n=1000, runs=3, generator, R=0.0, b=0.0):
    """R and b of `runs` streams in `n` dimensions at the times `alpha` `[m]`: arrays `[m, runs]`.

    The law is exact for every n >= 2, not a limit. Of an example only three numbers matter: its
    part along w, its part along what B has across w, and the length of all the rest, whose square
    is v times a chi-squared number of n - 2 degrees. `alpha` is rounded to whole examples.
    """
    alpha, (R, b) = _times(alpha), _start(R, b)
    n, runs = checks.count(n, "n", 2), checks.count(runs, "runs")
    rng = np.random.default_rng(_seed(generator))
    R, b = np.full(runs, float(R)), np.full(runs, float(b))
    stops = np.rint(alpha * n).astype(int)
    kept, done = [], 0
    for stop in stops:
        while done < stop:
            steps = min(CHUNK, stop - done)
            R, b = _run(clusters, rule, R, b, n, steps, rng)
            done += steps
        kept.append((R, b))
    R, b = (np.stack(part) for part in zip(*kept, strict=True))
    return R, b


def _run(clusters, rule, R, b, n, steps, rng):
    shape = steps, len(R)
    first = rng.random(shape) < clusters.prior
    label, v = np.where(first, 1.0, -1.0), np.where(first, clusters.v1, clusters.v2)
    eps = rule.eps * rng.random(shape) if rule.attack == "random" else rule.eps
    # Every example times its label: both clusters are then centred at +rho/2 B.
    along_noise = np.sqrt(v) * rng.standard_normal(shape) - eps
    across_noise = np.sqrt(v) * rng.standard_normal(shape)
    rest = v * (rng.chisquare(n - 2, shape) if n > 2 else 0.0)
    half, rate_w, rate_b = clusters.rho / 2, rule.eta_w / n, rule.eta_b / n
    scale = -2 / math.sqrt(math.pi)
    for t in range(steps):
        outside = np.sqrt(1 - R * R)
        along = half * R + along_noise[t]
        y = along - label[t] * b
        d = scale * np.exp(-y * y) * erfc(y)
        if rule.attack == "non-robust":
            d *= y < 0
        step = rate_w * d
        w, across = 1 - step * along, step * (half * outside + across_noise[t])
        length = np.sqrt(w * w + across * across + step * step * rest[t])
        R = np.clip((R * w - outside * across) / length, -1, 1)
        b = b + rate_b * label[t] * d
    return R, b


def adversarial_error(clusters, R, b, eps=0.0):
    """S(R, b, eps): the share of examples that a perturbation of length `eps` makes wrong.

    At eps = 0 the error. Numbers or arrays, which broadcast.
    """
    R, b, eps = (np.asarray(value, float) for value in (R, b, eps))
    if not (eps >= 0).all():
        raise ValueError(f"eps must be >= 0, got {eps.min()}")
    return sum(
        share * ndtr((eps + label * b - clusters.rho * R / 2) / math.sqrt(v))
        for label, share, v in clusters.sides
    )


def best_error(clusters, eps=0.0):
    """The smallest adversarial error of any R and b, for the knowing: at R = 1, b searched for.

    Where the perturbation makes the centres meet, eps >= rho/2, nothing beats saying the more
    frequent label to all (if the variances are equal): its error is min(p, 1 - p).
    """
    eps = checks.radius(eps)
    reach = clusters.rho / 2 + eps + 10 * math.sqrt(max(clusters.v1, clusters.v2))
    grid = np.linspace(-reach, reach, 2001)
    values = adversarial_error(clusters, 1.0, grid, eps)
    near, step = grid[values.argmin()], grid[1] - grid[0]
    found = minimize_scalar(
        lambda b: float(adversarial_error(clusters, 1.0, b, eps)),
        bounds=(near - step, near + step),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return min(float(found.fun), float(values.min()), clusters.prior, 1 - clusters.prior)


def symmetry_breaking(clusters, R=1.0):
    """The eps of "fixed" training beyond which b = 0 is unstable at R, for clusters that are alike.

    Where both have one prior and one variance b = 0 always solves the equations. A small b decays
    while the mean slope <d> rises with the mean, which ends at a fixed distance (.389 for v = 1)
    on the wrong side of the boundary.
    """
    if clusters.prior != 0.5 or clusters.v1 != clusters.v2:
        raise ValueError("b = 0 is a solution only for clusters of one prior and one variance")
    v = clusters.v1
    a = 1 + 2 * v
    c = 1 / math.sqrt(a * (1 + 4 * v))

    def curvature(m):  # of the mean loss, up to a positive factor
        return m / a * math.erfc(c * m) + c / math.sqrt(math.pi) * math.exp(-((c * m) ** 2))

    turn = brentq(curvature, -20 * math.sqrt(a), 0.0, xtol=1e-12)
    return clusters.rho * R / 2 - turn


def _positive(value, what):
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{what} must be a finite number > 0, got {value!r}")


def _times(alpha):
    alpha = np.atleast_1d(np.asarray(alpha, float))
    if alpha.ndim != 1 or not len(alpha) or not np.isfinite(alpha).all():
        raise ValueError("alpha must be a list of finite learning times")
    if alpha[0] < 0 or not (np.diff(alpha) > 0).all():
        raise ValueError("alpha must be increasing learning times >= 0")
    return alpha


def _start(R, b):
    if not isinstance(R, Real) or not abs(R) <= 1:
        raise ValueError(f"R at the start must be a number in [-1, 1], got {R!r}")
    if not isinstance(b, Real) or not math.isfinite(b):
        raise ValueError(f"b at the start must be a finite number, got {b!r}")
    return float(R), float(b)


def _seed(generator):
    """A seed for numpy, drawn from a `torch.Generator`."""
    import torch

    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    return torch.randint(2**62, (4,), generator=generator).tolist()
