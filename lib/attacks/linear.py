"""What a linear network would do: distances to its boundary, by a formula.

A network of two logits that is linear in x, pixels not held in [0, 1], is fooled by the
perturbations whose length, in the norm, is at least gap / dual norm of the gap's gradient. For Linf
that is the margin over |w|_1, where the fast gradient method of that eps ends.
"""

from lib import checks
from lib.attacks.threat import NORMS, dual_length, frozen, gap, gradient_at, ordinary, tiny


def linearised_distance(model, x, y, *, norm="linf"):
    """The distance `[s]` to the boundary of the network linearised at `x`, pixels unbounded.

    0 where the prediction differs from `y` already. Exact for a linear network of two classes if a
    pixel may have any value; with the range of pixels it is a lower bound of that distance. Of
    others it is what a first-order step believes: neither bound holds.
    """
    checks.labels(y, len(checks.images(x)))
    checks.one_of(norm, NORMS, "norm")
    with frozen(model):
        x, y = ordinary(x), ordinary(y)
        outputs, gaps, gradient = gradient_at(model, x, lambda z: gap(z, y), check=y)
    length = dual_length(gradient, norm)[:, 0, 0, 0].clamp_min(tiny(gradient))
    return (-gaps / length).clamp_min(0) * (outputs.argmax(1) == y)
