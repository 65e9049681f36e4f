"""Training: SGD with momentum and a one-cycle rate, resumable, deterministic for a seed."""

import time

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from lib import checkpoint as checkpoints
from lib import checks, runtime
from lib.augmentation.algebra import Sample
from lib.checkpoint import CheckpointError
from lib.seeds import generator

__all__ = ["CheckpointError", "one_cycle", "to_sample", "train"]


def to_sample(images, labels, classes):
    """The clean sample: bytes `[s, c, h, w]` to floats in [0, 1], labels `[s]` to one-hot rows."""
    return Sample(images.float() / 255, F.one_hot(labels, classes).float())


def train(
    model,
    dataset,
    augmentation,
    *,
    epochs,
    seed,
    batch_size=32,
    learning_rate=0.03,
    momentum=0.9,
    weight_decay=5e-4,
    checkpoint=None,
    checkpoint_seconds=60,
    progress=True,
):
    """Train `model` in place, on its own device, and return its history, a dict for each epoch.

    The loss is the cross-entropy against the (soft) labels of the augmented batch. The rate rises
    linearly to `learning_rate` over the first quarter of the steps and falls linearly to zero
    (one cycle, after Smith and Topin); `weight_decay` is SGD's, on every parameter. An epoch
    drops the last, incomplete batch. Data order and augmentation draw from generators of their
    own, made from `seed` and the epoch, so that the order is the same whatever the augmentation.
    An augmentation that attacks a network is refused if it is not `model`.

    `checkpoint` names a safetensors file that is written at most every `checkpoint_seconds` and
    at the end. Where it exists, training goes on from it to the same weights as without the
    interruption, or returns at once if it was finished. Raises CheckpointError if the file is
    damaged or of another training, FloatingPointError if the loss is no longer finite.
    """
    checks.count(epochs, "epochs")
    augmentation.begin(model)
    seed = int(seed)
    device = next(model.parameters()).device
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    classes, n = len(dataset.classes), len(images)
    batch_size = min(checks.count(batch_size, "batch_size"), n)
    steps = n // batch_size
    velocity = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    recipe = {
        "data": dataset.checksum,
        "augmentation": repr(augmentation),
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "sgd": [learning_rate, momentum, weight_decay],
        "precision": getattr(model, "precision", "fp32"),
    }
    state, history = {"model": model.state_dict(), "velocity": velocity}, []
    if checkpoint:
        found, history = checkpoints.restore(checkpoint, recipe, device)
        if history:  # a finished training keeps no velocity
            for part in state if len(history) < epochs else ["model"]:
                checkpoints.fill(checkpoint, state[part], found.get(part, {}))
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum, weight_decay=weight_decay, fused=True
    )
    for name, value in model.named_parameters():
        optimizer.state[value]["momentum_buffer"] = velocity[name]

    model.train()
    saved = time.monotonic()
    bar = tqdm(range(len(history), epochs), "training", epochs, initial=len(history),
               unit="epoch", leave=False, disable=not progress)  # fmt: skip
    for epoch in bar:
        order = torch.randperm(n, generator=generator(seed, "order", epoch)).to(device)
        draws = generator(seed, "augmentation", epoch, device=device)
        total = torch.zeros(2, device=device)
        for step, batch in enumerate(order[: steps * batch_size].view(steps, batch_size)):
            clean = to_sample(images[batch], labels[batch], classes)
            sample = augmentation.draw(clean, draws)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * one_cycle((epoch * steps + step) / (epochs * steps))
            logits = runtime.forward(model, sample.x)
            loss = F.cross_entropy(logits.float(), sample.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            wrong = logits.detach().argmax(1) != sample.y.argmax(1)
            total += torch.stack([loss.detach(), wrong.float().mean()])
        loss, error = (total / steps).tolist()
        if not np.isfinite(loss):
            raise FloatingPointError(f"training diverged in epoch {epoch}: the loss is {loss}")
        history.append({"epoch": epoch, "loss": loss, "error": error})
        bar.set_postfix(loss=f"{loss:.3f}", error=f"{error:.3f}")
        last = epoch + 1 == epochs
        if checkpoint and (last or time.monotonic() - saved >= checkpoint_seconds):
            checkpoints.save(
                checkpoint, {"model": state["model"]} if last else state, recipe, history
            )
            saved = time.monotonic()
    model.eval()
    return history


def one_cycle(progress):
    """The learning rate, as a share of its peak, once `progress` in [0, 1] of the steps is done."""
    return float(np.interp(progress, [0, 0.25, 1], [0.1, 1, 0]))
