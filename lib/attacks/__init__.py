"""Attacks: perturbations of images that change what a network predicts.

`threat` is the ground: a frozen network, the norms, the ball. `gradient` has FGSM, BIM, PGD and the
risk under an attack; `autoattack` and `square` need no step size; `minimal` finds the smallest
perturbation, `linear` what it would be of a linear network; `masking` asks whether an attack can be
believed.
"""

from lib.attacks.autoattack import apgd, worst_of
from lib.attacks.gradient import bim, fgsm, pgd, risk
from lib.attacks.linear import linearised_distance
from lib.attacks.minimal import boundary_distance, mean_distance, median_distance, risk_curve
from lib.attacks.square import square
from lib.attacks.threat import NORMS, frozen, logits_of, predict

__all__ = [
    "NORMS", "apgd", "bim", "boundary_distance", "fgsm", "frozen", "linearised_distance",
    "logits_of", "mean_distance", "median_distance", "pgd", "predict", "risk", "risk_curve",
    "square", "worst_of",
]  # fmt: skip
