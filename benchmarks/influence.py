"""Influence: scores per second, memory and agreement of our solvers and of the peers'.

One network, a small_cnn trained on the digits, its 1,297 training images on 200 test images, in its
last layer and in all its parameters. Each method runs in a process of its own on one thread. Time
is in CPU seconds, which other users of the machine disturb less; memory is the peak of the whole
process, most of which torch takes in any case. torch-influence, which takes one test image after
the other, is timed on five, and is left out where it is not installed:

    pip install -r benchmarks/requirements-influence.txt
    python benchmarks/influence.py
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from lib import models, training
from lib.augmentation.algebra import Identity, Sample
from lib.data import load
from lib.influence.functions import influence, smallest_eigenvalue

TESTS, FEW = 200, 5
L2 = 5e-4  # the study's weight decay on the digits
TOLERANCE = 1e-5  # relative residual: scipy's default, which torch-influence takes
EPOCHS = 20

# title, method, settings, test points
OWN = [
    ("own, cg", "cg", {"tolerance": TOLERANCE}, TESTS),
    ("own, cg, Gauss-Newton", "cg", {"tolerance": TOLERANCE, "curvature": "gauss-newton"}, TESTS),
]
EKFAC = ("own with kronfluence's EK-FAC", "ekfac", {}, TESTS)
PEER = ("torch-influence, cg", "torch-influence", {}, FEW)


def samples():
    dataset = load("digits")
    parts = ((dataset.train_images, dataset.train_labels), (dataset.test_images[:TESTS],
             dataset.test_labels[:TESTS]))  # fmt: skip
    return [training.to_sample(images, labels, 10) for images, labels in parts]


def network(path):
    model = models.build("small_cnn", 10, 1)
    model.load_state_dict(torch.load(path))
    return model


def torch_influence_scores(model, train, test, damping, last):
    """I by the package's own CG and its own loop over training points."""
    import torch_influence

    class CrossEntropy(torch_influence.BaseObjective):
        def train_outputs(self, model, batch):
            return model(batch[0])

        def train_loss_on_outputs(self, outputs, batch):
            return F.cross_entropy(outputs, batch[1])

        def train_regularization(self, params):
            return L2 / 2 * params.square().sum()

        def test_loss(self, model, params, batch):
            return F.cross_entropy(model(batch[0]), batch[1])

    model = model.to(memory_format=torch.contiguous_format)
    if last:
        model.body.requires_grad_(False)
    loaders = [DataLoader(TensorDataset(s.x, s.y), batch_size=200) for s in (train, test)]
    module = torch_influence.CGInfluenceModule(
        model, CrossEntropy(), *loaders, torch.device("cpu"), damp=damping, rtol=TOLERANCE
    )
    everyone = list(range(len(train)))
    rows = [module.influences(everyone, [i]) for i in range(len(test))]
    return -len(train) * torch.stack(rows)


def timed(path, out, case, damping, last):
    """Run one case and leave its scores, seconds and megabytes at `out`."""
    torch.set_num_threads(1)
    _, method, settings, tests = case
    model, (train, test) = network(path), samples()
    test = Sample(test.x[:tests], test.y[:tests])
    started = time.process_time()
    if method == "torch-influence":
        scores = torch_influence_scores(model, train, test, damping, last)
    else:
        scores = influence(
            model, train, test, method=method, damping=damping, l2=L2,
            parameters="last" if last else None, **settings,
        )  # fmt: skip
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save((scores, seconds, peak), out)


def table(path, cases, damping, last, folder):
    print("| method | pairs | CPU s | scores / CPU s | MiB | Pearson | largest difference |")
    print("|---|---|---|---|---|---|---|")
    reference, rates = None, {}
    for case in cases:
        out = Path(folder, "out.pt")
        process = multiprocessing.get_context("spawn").Process(
            target=timed, args=(path, out, case, damping, last)
        )
        process.start()
        process.join()
        if process.exitcode:
            print(f"| {case[0]} | failed |")
            continue
        scores, seconds, peak = torch.load(out)
        reference = scores if reference is None else reference
        theirs = reference[: len(scores)]
        pearson = torch.corrcoef(torch.stack([scores.flatten(), theirs.flatten()]).double())[0, 1]
        difference = (scores - theirs).abs().max() / theirs.abs().max()
        rates[case[0]] = scores.numel() / seconds
        print(f"| {case[0]} | {scores.numel():,} | {seconds:.1f} | {rates[case[0]]:,.0f} | "
              f"{peak:.0f} | {pearson:.5f} | {difference:.1e} |", flush=True)  # fmt: skip
    if PEER[0] in rates:
        print(f"\nown cg / torch-influence: {rates[OWN[0][0]] / rates[PEER[0]]:.1f} times\n")


def main():
    torch.set_num_threads(1)
    peers = [EKFAC, PEER]
    if not find_spec("torch_influence"):
        peers.remove(PEER)
        print("torch-influence is not installed, and left out\n")
    with tempfile.TemporaryDirectory() as folder:
        model = models.initialise(models.build("small_cnn", 10, 1), 0)
        training.train(model, load("digits"), Identity(), epochs=EPOCHS, seed=0, batch_size=64,
                       weight_decay=L2, progress=False)  # fmt: skip
        path = Path(folder, "model.pt")
        torch.save(model.state_dict(), path)
        train, _ = samples()
        least = smallest_eigenvalue(model, train, l2=L2)
        damping = 1.5 * max(-least, 0.0)
        print(f"torch {torch.__version__}, one thread; l2 = {L2:g}, tolerance = {TOLERANCE:g}\n")
        print("Last layer, 2,570 parameters, no damping:\n")
        table(path, [("own, exact", "exact", {}, TESTS), OWN[0], *peers], 0.0, True, folder)
        print(f"\nAll 25,866 parameters, smallest eigenvalue {least:.3g}, damping {damping:.3g}:\n")
        table(path, [*OWN, *peers], damping, False, folder)


if __name__ == "__main__":
    main()
