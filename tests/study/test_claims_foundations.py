"""Claims of the foundations on made-up records, whose truth is known."""

import itertools
import zlib

import numpy as np
import pandas as pd
import pytest

from lib.study import claims_foundations as claims
from lib.study.verdicts import FAILS, HOLDS, OPEN

SEEDS = range(5)
RADII = [0.0, 0.05, 0.1, 0.2]


def noise(*key):
    """A small number of the key's own, the same each time."""
    return 0.002 * np.sin(zlib.crc32(repr(key).encode()) % 1000)


def linear_table(risk, seeds=SEEDS, loss=None):
    """`risk(eps_train, decay, eps)` under attack; random signs do nothing."""
    rows = []
    for kind, decay, seed, eps in itertools.product([0, 0.1, 0.25], [0, 0.1], seeds, RADII):
        cell = {"eps_train": kind, "weight_decay": decay, "seed": seed, "eps": eps,
                "examples": 2000}  # fmt: skip
        value = risk(kind, decay, eps) + noise(seed, kind)
        rows.append(cell | {"measure": "risk", "attack": "fgsm", "value": value})
        rows.append(cell | {"measure": "risk", "attack": "random signs", "value": 0.02})
        uphill = 1 + 5 * eps + noise(seed) if loss is None else loss(kind, eps, seed)
        rows.append(cell | {"measure": "loss", "attack": "fgsm", "value": uphill})
    return pd.DataFrame(rows)


def as_told(kind, decay, eps):
    if kind == 0:
        return 0.015 + (4 if decay == 0 else 2) * eps
    return 0.015 + 0.1 * kind + 0.3 * eps


def verdicts(found):
    return [claim.verdict for claim in found]


def test_linear_networks_as_the_sources_tell_it():
    assert verdicts(claims.linear(linear_table(as_told))) == [HOLDS] * 5


def test_one_seed_decides_nothing():
    assert set(verdicts(claims.linear(linear_table(as_told, seeds=[0])))) == {OPEN}


@pytest.mark.parametrize(
    ("number", "risk"),
    [
        (0, lambda kind, decay, eps: 0.015 + 2 * eps),  # 21.5 % at eps .1
        (2, lambda kind, decay, eps: 0.015 + 4 * eps + kind),
        (3, lambda kind, decay, eps: as_told(kind, decay, eps) - kind * 0.2),
        (4, lambda kind, decay, eps: 0.01 if decay else as_told(kind, decay, eps)),
    ],
)
def test_linear_networks_that_do_otherwise(number, risk):
    assert claims.linear(linear_table(risk))[number].verdict == FAILS


def test_a_loss_that_falls_somewhere():
    def loss(kind, eps, seed):
        return 1 + 5 * eps - (0.8 if kind == 0.25 and eps == 0.2 else 0) + noise(seed)

    assert claims.linear(linear_table(as_told, loss=loss))[1].verdict == FAILS


def transfer_table(through):
    rows = []
    for target, seed in itertools.product(["linear", "mlp"], SEEDS):
        cell = {"target": target, "seed": seed, "eps": claims.FAR, "measure": "risk",
                "examples": 1000}  # fmt: skip
        rows.append(cell | {"by": "white box", "attack": "pgd", "value": 0.9})
        value = through[target] + noise(seed)
        rows.append(cell | {"by": "several of its kind", "attack": "pgd", "value": value})
        rows.append(cell | {"by": "several of its kind", "attack": "fgsm", "value": 0.0})
        rows.append(cell | {"by": "random signs", "attack": "none", "value": 0.02})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("through", "verdict"),
    [({"linear": 0.8, "mlp": 0.4}, HOLDS), ({"linear": 0.8, "mlp": 0.005}, FAILS),
     ({"linear": 0.8, "mlp": 0.0201}, OPEN)],
)  # fmt: skip
def test_surrogates(through, verdict):
    assert verdicts(claims.surrogates(transfer_table(through))) == [verdict]


def network_table(risks):
    """`risks[method] = (under FGSM, under PGD)`."""
    rows = []
    for method, seed in itertools.product(risks, SEEDS):
        for attack, value in zip(("fgsm", "pgd"), risks[method], strict=True):
            rows.append({"measure": "risk", "method": method, "seed": seed, "attack": attack,
                         "eps": claims.BENT, "value": value + noise(seed, method, attack),
                         "examples": 1000})  # fmt: skip
        rows.append({"measure": "training seconds", "method": method, "seed": seed, "value": 9.0,
                     "examples": 6000})  # fmt: skip
    return pd.DataFrame(rows)


def test_networks():
    deceived = {"standard": (0.8, 1.0), "fgsm": (0.1, 0.4), "pgd": (0.1, 0.12)}
    assert verdicts(claims.networks(network_table(deceived))) == [HOLDS] * 3
    otherwise = {"standard": (0.8, 0.5), "fgsm": (0.1, 0.4), "pgd": (0.2, 0.7)}
    assert verdicts(claims.networks(network_table(otherwise))) == [FAILS] * 3
    level = {"standard": (0.8, 1.0), "fgsm": (0.1, 0.12), "pgd": (0.1, 0.12)}
    assert verdicts(claims.networks(network_table(level))) == [HOLDS, OPEN, OPEN]


def stream_table(off=0.0, spread=1e-3):
    rows = []
    truth = {  # error, adversarial error
        ("standard", 0.5): (0.17, 0.52), ("adversarial", 0.5): (0.16, 0.51),
        ("standard", 0.7): (0.16, 0.46), ("adversarial", 0.7): (0.28, 0.31),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for (scenario, prior), seed, n, alpha in itertools.product(truth, range(10), (20, 1000),
                                                               (0, 100)):  # fmt: skip
        readings = dict(zip(("error", "adversarial error"), truth[scenario, prior], strict=True))
        for measure, value in (readings | {"R": 0.9, "b": -1.0}).items():
            cell = {"scenario": scenario, "prior": prior, "seed": seed, "n": n, "alpha": alpha,
                    "measure": measure, "examples": n}  # fmt: skip
            rows.append(cell | {"source": "equations", "value": value})
            strayed = value + off + spread * rng.standard_normal()
            rows.append(cell | {"source": "stream", "value": strayed})
    return pd.DataFrame(rows)


def test_streams_that_follow_the_equations():
    assert verdicts(claims.streams(stream_table())) == [HOLDS] * 3


@pytest.mark.parametrize("off", [0.03, -0.03])
def test_streams_that_stray_to_either_side(off):
    """Beyond what is near enough in R, though not in b."""
    assert claims.streams(stream_table(off))[0].verdict == FAILS


def test_streams_too_scattered_to_tell():
    assert claims.streams(stream_table(spread=0.1))[0].verdict == OPEN


@pytest.mark.parametrize(("delay", "verdict"), [(0.2, HOLDS), (-0.2, FAILS), (0.0, OPEN)])
def test_committees(delay, verdict):
    rows = [
        {"measure": measure, "eps": eps, "seed": seed, "alpha": alpha, "examples": 1000,
         "value": 0.3 + (delay * eps if alpha == claims.EARLY else 0) + noise(seed, eps)}
        for measure in ("error", "adversarial error") for eps in (0, 0.5, 1) for seed in SEEDS
        for alpha in (0, claims.EARLY, 100)
    ]  # fmt: skip
    assert verdicts(claims.committees(pd.DataFrame(rows))) == [verdict]


def test_a_seed_that_is_there_twice_is_no_further_seed(refuses):
    table = transfer_table({"linear": 0.8, "mlp": 0.8})
    refuses(lambda: claims.surrogates(pd.concat([table, table])), "seed 0")


def test_an_effect_in_words():
    one = claims.effect("x", pd.Series([0.1, 0.11, 0.12]))
    half = 4.30265 * 0.01 / 3**0.5
    interval = f"(95 % interval {100 * (0.11 - half):+.1f} to {100 * (0.11 + half):+.1f})"
    assert claims.in_words(one) == f"+11.0 points {interval}"
    assert claims.in_words(one, "nats", 2).startswith("+0.11 nats (95 % interval +0.09 to")
    assert "no interval" in claims.in_words(claims.effect("x", pd.Series([0.1])))
