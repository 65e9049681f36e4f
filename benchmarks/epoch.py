"""Seconds of an epoch and of an attack's step, eager and compiled, against what the device can do.

    python benchmarks/epoch.py [PROFILE]

The ceilings are measured first: a large matrix product in the network's precision, and a copy of
a large tensor. The arithmetic of a step is counted by torch; its traffic is modelled, every
convolution's output passing through memory PASSES times. Writes nothing into `runs/` or
`results/`.
"""

import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from lib import attacks, models, runtime, study, training
from lib.attacks.threat import gradient_at, margin
from lib.augmentation.algebra import Identity
from lib.records.provenance import device_name
from lib.study.profile import Profile

# Forward: written, read for the statistics of BatchNorm, read and written by BatchNorm with ReLU,
# read by the next convolution. Backward: about twice as often.
PASSES = 14
ROUNDS = 5


def seconds(call, rounds=ROUNDS):
    """The fastest of a few calls, after one to warm up."""
    found = []
    for _ in range(rounds + 1):
        _wait()
        started = time.perf_counter()
        call()
        _wait()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _wait():
    if runtime.device().type == "cuda":
        torch.cuda.synchronize()


def ceilings(precision):
    """FLOP/s of a matrix product and bytes/s of a copy, read and write counted."""
    gpu = runtime.device().type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side, numbers = (8192, 2**30) if gpu else (1024, 2**26)
    matrix = torch.randn(side, side, device=runtime.device(), dtype=dtype)
    source = torch.zeros(numbers // 4, device=runtime.device())
    target = torch.empty_like(source)
    flops = 2 * side**3 / seconds(lambda: matrix @ matrix)
    return flops, 2 * source.nbytes / seconds(lambda: target.copy_(source))


def count(model, x):
    """FLOP of a training step and of an input gradient, and numbers that convolutions put out."""
    outputs = []

    def note(module, _, output):
        outputs.append(output.numel())

    hooks = [module.register_forward_hook(note) for module in model.modules()
             if isinstance(module, torch.nn.Conv2d)]  # fmt: skip
    with FlopCounterMode(display=False) as step:
        model.train()(x).sum().backward()
    for hook in hooks:
        hook.remove()
    with attacks.frozen(model), FlopCounterMode(display=False) as slope:
        model(x.clone().requires_grad_()).sum().backward()
    n = len(x)
    return step.get_total_flops() / n, slope.get_total_flops() / n, sum(outputs) / n


def timed(profile, precision, compiled):
    """What one network takes: seconds to compile, of an epoch, and of a PGD step for an image."""
    images, where = study.dataset(profile), runtime.device()
    shape, size = tuple(images.train_images.shape[1:]), profile.sweep["batch"]
    x = images.train_images[:size].to(where).float() / 255
    y = images.train_labels[:size].to(where)

    def network():
        model = models.build(profile.network, len(images.classes), shape[0], precision).to(where)
        if compiled:
            model.compiled = {True: profile.training["batch_size"], False: len(x)}
        return models.initialise(model, 0)

    _wait()
    started = time.perf_counter()
    if compiled:
        runtime.warm_up(network(), shape)
        _wait()
    found = {"compilation, s": time.perf_counter() - started}
    model, recipe = network(), {**profile.training, "epochs": 1, "seed": 0, "progress": False}
    del recipe["precision"]
    found["an epoch, s"] = seconds(
        lambda: training.train(model, images, Identity(), **recipe), rounds=2
    )

    def step():
        gradient_at(model, x, lambda logits: margin(logits, y))

    def loose():
        leaf = x.clone().requires_grad_()
        margin(runtime.forward(model, leaf).float(), y).sum().backward()
        model.zero_grad()

    found["with parameters' gradients, us"] = 1e6 * seconds(loose) / len(x)
    with attacks.frozen(model):
        found["an attack's step, us an image"] = 1e6 * seconds(step) / len(x)
    return found


def main():
    profile = Profile.load((sys.argv[1:] or ["digits"])[0])
    precision = profile.training["precision"] if runtime.accelerated() else "fp32"
    runtime.set_up(precision)
    images, where = study.dataset(profile), runtime.device()
    flops, bandwidth = ceilings(precision)
    print(f"{device_name(where)}, torch {torch.__version__}: {flops / 1e12:.3g} TFLOP/s in "
          f"{precision}, {bandwidth / 1e9:.4g} GB/s")  # fmt: skip
    n, channels = len(images.train_images), images.train_images.shape[1]
    model = models.build(profile.network, len(images.classes), channels).to(where)
    step, slope, outputs = count(model, images.train_images[:8].to(where).float() / 255)
    traffic = PASSES * outputs * (2 if precision == "bf16" else 4)
    print(f"{profile.network} on {n:,} images of {profile.dataset}: {n * step / 1e12:.3g} TFLOP "
          f"and about {n * traffic / 1e9:.3g} GB an epoch\n")  # fmt: skip
    eager, compiled = (timed(profile, precision, way) for way in (False, True))
    for found in (eager, compiled):
        found["of the arithmetic ceiling"] = n * step / flops / found["an epoch, s"]
        found["of the bandwidth"] = n * traffic / bandwidth / found["an epoch, s"]
        found["frozen against not, times as fast"] = (
            found["with parameters' gradients, us"] / found["an attack's step, us an image"]
        )
        found["attack, of the arithmetic ceiling"] = (
            1e6 * slope / flops / found["an attack's step, us an image"]
        )
    print("| | eager | compiled | eager / compiled |")
    print("|---|---|---|---|")
    for name, value in eager.items():
        print(f"| {name} | {value:.3g} | {compiled[name]:.3g} | {value / compiled[name]:.2f} |")


if __name__ == "__main__":
    main()
