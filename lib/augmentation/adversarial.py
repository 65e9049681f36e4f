"""Adversarial training as an augmentation: each example gives way to an attacked one."""

import torch

from lib import checks
from lib.attacks import threat
from lib.augmentation.algebra import Augmentation, Sample


class Adversarial(Augmentation):
    """Each example moves within the eps-ball to where the network in training errs more.

    `steps` steps of projected gradient ascent (Madry et al. 2018) on the cross-entropy, of length
    `step_size` (2.5 eps / steps by default), in "linf" or "l2", from the example itself or, with
    start="ball", from a random point of the ball. One step from the example is the fast gradient
    method (Goodfellow et al. 2015). A soft label's own cross-entropy is ascended: it is the loss
    that training descends, and after mixup no single label would be. Labels stay as they are.

    `model` is the very network that is trained, whatever its weights are by then: `train` refuses
    another one. It is attacked in eval mode, as it will be judged, and left as it was: its mode,
    its BatchNorm statistics, its gradients. `A @ Adversarial(...)` attacks first, and A may blunt
    the attack; `Adversarial(...) @ A` attacks what A made.
    """

    def __init__(self, model, eps, steps, norm="linf", *, start="zero", step_size=None):
        self.model = checks.network(model)
        self.eps, self.steps = checks.radius(eps), checks.count(steps, "steps")
        self.norm = checks.one_of(norm, threat.NORMS, "norm")
        self.start = checks.one_of(start, threat.STARTS, "start")
        self.step_size = step_size if step_size is None else checks.radius(step_size, "step_size")

    def begin(self, model):
        if model is not self.model:
            raise ValueError(
                "Adversarial attacks another network than the one in training: give it that one"
            )

    def draw(self, sample, generator):
        x, y = sample.x, sample.y
        step_size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        with threat.frozen(self.model):
            x_adv = threat.begin(x, self.eps, self.norm, self.start, generator)
            for _ in range(self.steps):
                *_, gradient = threat.gradient_at(self.model, x_adv, lambda z: ascended(z, y))
                step = step_size * threat.steepest(gradient, self.norm)
                x_adv = threat.project(x_adv + step, x, self.eps, self.norm)
        return Sample(threat.finite(x_adv, "gradients"), y)

    def __repr__(self):
        # The settings alone: the network is the one that a checkpoint's name stands for.
        settings = {name: value for name, value in vars(self).items() if name != "model"}
        return f"Adversarial({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


def ascended(logits, y):
    """What has the direction of the cross-entropy against the rows of `y` `[s, k]`: `[s]`.

    Of a hard label the margin, whose gradient does not underflow where the network is confident;
    of a soft one the cross-entropy itself, whose gradient vanishes only where the two agree.
    """
    if y.shape != logits.shape:
        raise ValueError(f"the network gives {logits.shape[1]} logits, labels have {y.shape[1]}")
    label = y.argmax(1)
    entropy = logits.logsumexp(1) - (y * logits).sum(1)
    return torch.where(y.amax(1) == 1, threat.margin(logits, label), entropy)
