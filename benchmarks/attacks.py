"""PGD against peers, and stress against the bare network, as Markdown tables.

    python benchmarks/attacks.py [ROUNDS]

small_cnn trained on the digits, one thread. Own PGD and that of every peer that is installed attack
the same test images from the same start with the same steps and loss. The parties of a ratio take
turns within one run, round by round; the medians over the rounds are given, of speeds and of
ratios. Peak memory is that of a fresh process each. Seconds depend on the machine and on who else
uses it.
"""

import datetime
import platform
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from lib import data, models, training
from lib.attacks.gradient import pgd, risk
from lib.attacks.threat import frozen, logits_of
from lib.augmentation.algebra import Identity
from lib.stress import prediction_change_stress

EPS, STEPS = {"l2": 0.5, "linf": 0.1}, 20
BATCH = 250  # the study's on a CPU
SATURATED = 1.2  # an L2 eps that nearly all images succumb to


def network(epochs=6):
    dataset = data.load("digits")
    model = models.initialise(models.build("small_cnn", 10, 1), 0)
    training.train(model, dataset, Identity(), epochs=epochs, seed=0, progress=False)
    return model, dataset.test_images.float() / 255, dataset.test_labels


# ---------------------------------- PGD of each party: (model, norm, eps, step) -> attack(x, y)


def own(model, norm, eps, step):
    return partial(pgd, model, eps=eps, steps=STEPS, norm=norm, step_size=step)


def by_foolbox(model, norm, eps, step):
    from foolbox import PyTorchModel, attacks

    kind = {"l2": attacks.L2PGD, "linf": attacks.LinfPGD}[norm]
    attack = kind(abs_stepsize=step, steps=STEPS, random_start=False)
    wrapped = PyTorchModel(model, bounds=(0, 1), device="cpu")
    return lambda x, y: attack(wrapped, x, y, epsilons=eps)[1]


def by_torchattacks(model, norm, eps, step):
    import lib.vision  # noqa: F401, I001, so that its torchvision loads beside a CPU-only torch
    from torchattacks import PGD, PGDL2

    settings = {"eps": eps, "alpha": step, "steps": STEPS, "random_start": False}
    if norm == "l2":  # its default shortens steps where the gradient is as small as 1e-10
        return PGDL2(model, **settings, eps_for_division=1e-12)
    return PGD(model, **settings)


def by_art(model, norm, eps, step):
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, {"l2": 2, "linf": "inf"}[norm], eps, step,
        max_iter=STEPS, batch_size=sys.maxsize, verbose=False,
    )  # fmt: skip
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


PARTIES = {"own": own, "foolbox": by_foolbox, "torchattacks": by_torchattacks, "ART": by_art}


def attack_of(name, model, norm):
    return PARTIES[name](model, norm, EPS[norm], EPS[norm] / 8)


def attacked(attack, x, y):
    return torch.cat(list(map(attack, x.split(BATCH), y.split(BATCH))))


def in_turns(calls, rounds):
    """Seconds of each of `calls` in every round, one after another, after a round to warm up."""
    seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def times_as_fast(seconds, name, other):
    """The median over the rounds of how many times as fast `name` is as `other`."""
    pairs = zip(seconds[name], seconds[other], strict=True)
    return statistics.median(theirs / mine for mine, theirs in pairs)


def peak(name, norm):
    """MiB that its import, then the attack beyond a forward pass, add to a fresh process's peak."""
    command = [sys.executable, __file__, "peak", name, norm]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return done.stdout.split() or ["?", "?"]  # where there is no /proc


def measure_peak(name, norm):
    def so_far():
        # Not ru_maxrss: it begins with the memory of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024

    model, x, y = network(epochs=1)
    x, y = x.repeat(8, 1, 1, 1), y.repeat(8)  # so many that the training's own peak is passed
    marks = [so_far()]
    attack = attack_of(name, model, norm)
    marks += [so_far()]
    with torch.no_grad():
        model(x)
    marks += [so_far()]
    attack(x, y)
    print(f"{marks[1] - marks[0]:.0f} {so_far() - marks[2]:.0f}")


def compare_with_peers(model, x, y, rounds):
    print(
        f"PGD, {len(x)} images in batches of {BATCH}, {STEPS} steps of eps / 8 on cross-entropy; "
        "MiB for 4,000 images at once:\n"
    )
    print("| norm, eps | | images x steps per second | own / it | risk | mean loss "
          "| MiB by import | MiB by attack |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for norm, eps in EPS.items():
        calls = {n: partial(attacked, attack_of(n, model, norm), x, y) for n in PARTIES}
        seconds = in_turns(calls, rounds)
        for name, call in calls.items():
            x_adv = call()
            loss = F.cross_entropy(logits_of(model, x_adv), y).item()
            speed = len(x) * STEPS / statistics.median(seconds[name])
            ratio = times_as_fast(seconds, "own", name)
            print(f"| {norm}, {eps} | {name} | {speed:,.0f} | {ratio:.2f} "
                  f"| {risk(model, x_adv, y):.1%} | {loss:.4f} | "
                  f"{' | '.join(peak(name, norm))} |", flush=True)  # fmt: skip
    print()


def first_success(model, x, y, rounds):
    print("L2 PGD, default step, keep `first_success` against `last`:\n")
    print("| steps, eps | risk, `last` | risk, `first_success` | times as fast |")
    print("|---|---|---|---|")
    for steps, eps in ((20, SATURATED), (100, EPS["l2"]), (100, SATURATED)):
        calls = {
            keep: lambda k=keep, e=eps, n=steps: pgd(model, x, y, eps=e, steps=n, keep=k)
            for keep in ("last", "first_success")
        }
        seconds = in_turns(calls, rounds)
        risks = [f"{risk(model, call(), y):.1%}" for call in calls.values()]
        ratio = times_as_fast(seconds, "first_success", "last")
        print(f"| {steps}, {eps} | {risks[0]} | {risks[1]} | {ratio:.2f} |")
    print()


def stress(model, x, rounds):
    """The bare forward pass has as many images in batches as large, and draws none of them."""
    neighbours, batch = 100, 2000
    x = x[:200]
    batches = x.repeat_interleave(neighbours, 0).split(batch)

    def bare():
        with frozen(model), torch.no_grad():
            for part in batches:
                model(part)

    def stressed():
        generator = torch.Generator().manual_seed(0)
        prediction_change_stress(
            model, x, eps=0.5, neighbours=neighbours, generator=generator, batch_size=batch
        )

    seconds = in_turns({"bare": bare, "stress": stressed}, rounds)
    images = len(x) * neighbours
    print("| | images per second |\n|---|---|")
    print(f"| bare forward pass | {images / statistics.median(seconds['bare']):,.0f} |")
    print(f"| stress | {images / statistics.median(seconds['stress']):,.0f} |")
    print(f"| stress / bare | {times_as_fast(seconds, 'stress', 'bare'):.0%} |")


def main():
    if sys.argv[1:2] == ["peak"]:
        measure_peak(*sys.argv[2:])
        return
    rounds = int((sys.argv[1:] or ["5"])[0])
    torch.set_num_threads(1)
    model, x, y = network()
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread, "
          f"medians of {rounds} rounds\n")  # fmt: skip
    for name in list(PARTIES):
        try:
            attack_of(name, model, "l2")
        except ImportError as error:
            print(f"Without {name}: {error}\n")
            del PARTIES[name]
    compare_with_peers(model, x, y, rounds)
    first_success(model, x, y, rounds)
    stress(model, x, rounds)


if __name__ == "__main__":
    main()
