"""The attacks and stress against a peer and against the bare network, as Markdown tables.

    python benchmarks/attacks.py [ROUNDS]

small_cnn trained on the digits, one thread. Own PGD and foolbox's (if installed) attack the same
test images from the same start with the same steps and loss. The parties of a ratio take turns
within one run, round by round; the medians over the rounds are given, of speeds and of ratios.
Peak memory is that of a fresh process each. Seconds depend on the machine and on who else uses it.
"""

import datetime
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from lib import data, models, training
from lib.attacks import frozen, logits_of, pgd, risk
from lib.augmentation import Identity
from lib.stress import prediction_change_stress

EPS, STEPS = {"l2": 0.5, "linf": 0.1}, 20
BATCH = 250  # the study's on a CPU
SATURATED = 1.2  # an L2 eps that nearly all images succumb to


def network(epochs=6):
    dataset = data.load("digits")
    model = models.initialise(models.build("small_cnn", 10, 1), 0)
    training.train(model, dataset, Identity(), epochs=epochs, seed=0, progress=False)
    return model, dataset.test_images.float() / 255, dataset.test_labels


def own(model, x, y, norm):
    eps = EPS[norm]
    return pgd(model, x, y, eps=eps, steps=STEPS, norm=norm, step_size=eps / 8)


def peer(model, x, y, norm):
    import foolbox

    attack = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}[norm]
    step = EPS[norm] / 8
    attack = attack(abs_stepsize=step, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    return attack(wrapped, x, y, epsilons=EPS[norm])[1]


ATTACKS = {"own": own, "foolbox": peer}


def attacked(attack, model, x, y, norm):
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    return torch.cat([attack(model, part, labels, norm) for part, labels in parts])


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


def peak(name):
    """MiB that the attack adds to the peak of a fresh process with the network and a forward."""
    done = subprocess.run([sys.executable, __file__, "peak", name], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def measure_peak(name):
    model, x, y = network(epochs=1)
    x, y = x.repeat(8, 1, 1, 1), y.repeat(8)  # so many that the training's own peak is passed
    with torch.no_grad():
        model(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name != "none":
        ATTACKS[name](model, x, y, "l2")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def compare_with_peer(model, x, y, rounds):
    print(
        f"PGD, {len(x)} images in batches of {BATCH}, {STEPS} steps of eps / 8 on cross-entropy:\n"
    )
    print("| norm, eps | | images x steps per second | risk | mean loss |")
    print("|---|---|---|---|---|")
    for norm, eps in EPS.items():
        calls = {
            name: lambda a=attack, n=norm: attacked(a, model, x, y, n)
            for name, attack in ATTACKS.items()
        }
        seconds = in_turns(calls, rounds)
        for name, call in calls.items():
            x_adv = call()
            loss = F.cross_entropy(logits_of(model, x_adv), y).item()
            speed = len(x) * STEPS / statistics.median(seconds[name])
            found = risk(model, x_adv, y)
            print(f"| {norm}, {eps} | {name} | {speed:,.0f} | {found:.1%} | {loss:.4f} |")
        ratio = times_as_fast(seconds, "own", "foolbox")
        print(f"| {norm}, {eps} | own / foolbox | {ratio:.2f} | | |")
    print("\nMemory that L2 PGD adds to a process, 4,000 images: "
          + ", ".join(f"{name} {peak(name):.0f} MiB" for name in ATTACKS) + "\n")  # fmt: skip


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
        measure_peak(sys.argv[2])
        return
    rounds = int((sys.argv[1:] or ["5"])[0])
    torch.set_num_threads(1)
    try:
        import foolbox  # noqa: F401
    except ImportError:
        del ATTACKS["foolbox"]
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread, "
          f"medians of {rounds} rounds\n")  # fmt: skip
    model, x, y = network()
    if "foolbox" in ATTACKS:
        compare_with_peer(model, x, y, rounds)
    else:
        print("foolbox is not installed: no peer to compare with\n")
    first_success(model, x, y, rounds)
    stress(model, x, rounds)


if __name__ == "__main__":
    main()
