"""Label-conditional GANs: training of the generators that serve as augmentations.

Two kinds, after the source: "ns", the non-saturating loss (Goodfellow et al. 2014) with a
spectrally normalised critic (Miyato et al. 2018), and "wgp", the Wasserstein loss with gradient
penalty (Gulrajani et al. 2017).
"""

import copy
import time
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from lib import checkpoint as checkpoints
from lib import checks
from lib.gan import networks
from lib.gan.quality import frechet_distance
from lib.seeds import generator as stream

__all__ = ["KINDS", "frechet_distance", "train_gan"]

KINDS = ("ns", "wgp")
PRECISIONS = ("fp32", "bf16")
PENALTY = 10  # the weight of the gradient penalty, as its authors have it
FINISHED = ("averaged", "previews")  # what a checkpoint keeps of a finished training


def recipe_of(
    kind,
    *,
    steps,
    seed,
    network="residual",
    width=256,
    critic_width=128,
    latent=128,
    batch_size=64,
    critic_steps=5,
    learning_rate=2e-4,
    average=0.999,
    precision="fp32",
    rounds=10,
):
    """The recipe of a GAN, whole and checked: a dict of these arguments.

    `average` is the share of the old generator at every step of the moving average.
    """
    checks.one_of(kind, KINDS, "kind of GAN")
    checks.one_of(network, networks.NETWORKS, "network of a GAN")
    checks.one_of(precision, PRECISIONS, "precision")
    if checks.count(batch_size, "batch_size") < 2:
        raise ValueError("batch norm needs a batch_size of at least 2, got 1")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"a seed must be an integer >= 0, got {seed!r}")
    return {
        "kind": kind, "seed": int(seed), "network": network,
        "width": checks.count(width, "width"), "latent": checks.count(latent, "latent"),
        "critic_width": checks.count(critic_width, "critic_width"),
        "steps": checks.count(steps, "steps"), "precision": precision,
        "critic_steps": checks.count(critic_steps, "critic_steps"),
        "batch_size": batch_size,
        "learning_rate": checks.radius(learning_rate, "learning_rate"),
        "average": checks.probability(average),
        "rounds": min(checks.count(rounds, "rounds"), steps),
    }  # fmt: skip


def train_gan(
    kind,
    dataset,
    *,
    after_round=None,
    checkpoint=None,
    checkpoint_seconds=60,
    device="cpu",
    progress=True,
    **recipe,
):
    """Train a GAN of the `kind` "ns" or "wgp" on the training images; return its generator.

    `recipe`: `steps`, `seed` and what else `recipe_of` takes.
    A step is `critic_steps` updates of the critic and one of the generator, by Adam(0, 0.9) with a
    rate that falls linearly to zero. What is returned is a moving average of the generator
    (`average`: the share of the old at every step, once it has warmed up), in eval mode and frozen,
    its weights rounded to half precision, as they are stored. With precision "bf16" the networks
    run in bf16, but losses, gradient penalty, power iteration and all weights stay in fp32.

    The steps are cut into `rounds`. After each, a record {step, critic, generator (mean losses),
    seconds} is appended to the generator's `.history`, a row of images of the same latent vectors,
    one a class, to its `.previews` (uint8 `[rounds, classes, c, h, w]`), and
    `after_round(generator, record, previews)` is called, which may add numbers to the record.

    `checkpoint` names a safetensors file, written after a round at most every `checkpoint_seconds`
    and at the end. Where it exists, training goes on from it to the same weights as without the
    interruption, or returns at once if it was finished. Raises CheckpointError if the file is
    damaged or of another training or architecture, and FloatingPointError, the checkpoint left as
    it is, once a loss is no longer finite.
    """
    recipe = {"data": dataset.checksum, **recipe_of(kind, **recipe)}
    rounds, steps = recipe["rounds"], recipe["steps"]
    game = Game(dataset, SimpleNamespace(**recipe), device)
    state, history = game.state(), []
    if checkpoint:
        found, history = checkpoints.restore(checkpoint, recipe, device)
        if history:
            for part in state if len(history) < rounds else FINISHED:
                checkpoints.fill(checkpoint, state[part], found.get(part, {}))

    ends = [round(steps * number / rounds) for number in range(rounds + 1)]
    saved = time.monotonic()
    bar = tqdm(total=steps, desc=f"gan-{kind}", initial=ends[len(history)], unit="step",
               leave=False, disable=not progress or len(history) == rounds)  # fmt: skip
    for number in range(len(history), rounds):
        began, losses = time.perf_counter(), []
        for step in range(ends[number], ends[number + 1]):
            losses.append(game.step(step))
            bar.update()
        losses, last = torch.stack(losses), number + 1 == rounds
        if last:
            _round_to_half(game.averaged)
        _refuse_divergence(losses, game.averaged, ends[number], checkpoint)
        game.preview(number)
        means = dict(zip(("critic", "generator"), losses.mean(0).tolist(), strict=True))
        record = {"step": ends[number + 1], **means, "seconds": time.perf_counter() - began}
        bar.set_postfix(means)
        if after_round:
            after_round(game.averaged, record, game.previews[: number + 1])
        history.append(record)
        if checkpoint and (last or time.monotonic() - saved >= checkpoint_seconds):
            kept = {name: _halves(state[name]) for name in FINISHED} if last else state
            checkpoints.save(checkpoint, kept, recipe, history)
            saved = time.monotonic()
    game.averaged.history, game.averaged.previews = history, game.previews
    return game.averaged


class Game:
    """The generator, its critic, their optimizers, and one step of their training."""

    def __init__(self, dataset, recipe, device):
        self.recipe, self.device = recipe, torch.device(device)
        self.images = dataset.train_images.to(device)
        self.labels = dataset.train_labels.to(device)
        shape, classes = self.images.shape[1:], len(dataset.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            generator, critic = networks.build(
                recipe.network, shape, classes, width=recipe.width, latent=recipe.latent,
                critic_width=recipe.critic_width, spectral=recipe.kind == "ns",
            )  # fmt: skip
        self.generator, self.critic = generator.to(device), critic.to(device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimizers = [_adam(module) for module in (self.generator, self.critic)]
        self.previews = self.images.new_zeros(recipe.rounds, classes, *shape)
        self.shown = generator.latents(classes, stream(recipe.seed, "previews", device=device))

    def state(self):
        """All that a checkpoint holds, by part; the tensors are those in use, not copies."""
        moments = {
            f"{name}-{moment}": {
                str(i): optimizer.state[p][moment] for i, p in enumerate(parameters)
            }
            for name, optimizer in zip(("generator", "critic"), self.optimizers, strict=True)
            for parameters in [optimizer.param_groups[0]["params"]]
            for moment in ("step", "exp_avg", "exp_avg_sq")
        }
        return {
            "averaged": self.averaged.state_dict(), "previews": {"images": self.previews},
            "generator": self.generator.state_dict(), "critic": self.critic.state_dict(), **moments,
        }  # fmt: skip

    def step(self, number):
        """Update the critic, the generator and its average; the losses of both, `[2]`."""
        recipe = self.recipe
        draws = stream(recipe.seed, "gan", number, device=self.device)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - number / recipe.steps)
        self.critic.requires_grad_(True)
        for _ in range(recipe.critic_steps):
            real, labels = self._batch(draws)
            with torch.no_grad():
                fake = self._fakes(labels, draws)
            of_critic = self._critic_loss(real, fake, labels, draws)
            _update(self.optimizers[1], of_critic)
        self.critic.requires_grad_(False)
        _, labels = self._batch(draws)
        scores = self._scores(self._fakes(labels, draws), labels)
        of_generator = F.softplus(-scores).mean() if recipe.kind == "ns" else -scores.mean()
        _update(self.optimizers[0], of_generator)
        # Early on the average forgets faster: it would else remember the initialisation.
        _approach(
            self.averaged, self.generator, 1 - min(recipe.average, (number + 1) / (number + 10))
        )
        return torch.stack([of_critic.detach(), of_generator.detach()])

    def preview(self, number):
        labels = torch.arange(len(self.shown), device=self.device)
        images = self.averaged.images(self.shown, labels)
        self.previews[number] = ((images + 1) * 127.5).round().byte()

    def _batch(self, draws):
        size = (self.recipe.batch_size,)
        chosen = torch.randint(len(self.images), size, generator=draws, device=self.device)
        return self.images[chosen].float() / 127.5 - 1, self.labels[chosen]

    def _mixed(self):
        enabled = self.recipe.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled)

    def _fakes(self, labels, draws):
        with self._mixed():
            return self.generator.images(self.generator.latents(len(labels), draws), labels)

    def _scores(self, images, labels):
        with _normalised(self.critic), self._mixed():
            return self.critic(images, labels).float()

    def _critic_loss(self, real, fake, labels, draws):
        of_real, of_fake = self._scores(torch.cat([real, fake]), labels.repeat(2)).chunk(2)
        if self.recipe.kind == "ns":
            return F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
        # Between real and generated images the slope shall be one; in fp32, for its square counts.
        share = torch.rand(len(real), 1, 1, 1, generator=draws, device=self.device)
        between = (share * real + (1 - share) * fake).requires_grad_()
        scores = self.critic(between, labels).sum()
        (slope,) = torch.autograd.grad(scores, between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return of_fake.mean() - of_real.mean() + PENALTY * penalty


def _adam(module):
    """Adam(0, 0.9) whose moments are there from the start, so that a checkpoint can fill them."""
    optimizer = torch.optim.Adam(module.parameters(), betas=(0.0, 0.9), fused=True)
    for value in module.parameters():
        optimizer.state[value] = {
            "step": torch.zeros((), device=value.device),
            "exp_avg": torch.zeros_like(value),
            "exp_avg_sq": torch.zeros_like(value),
        }
    return optimizer


def _update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@contextmanager
def _normalised(critic):
    """Spectral norms are computed once, before autocast: in bf16 the power iteration is rough."""
    with parametrize.cached():
        for module in critic.modules():
            if parametrize.is_parametrized(module):
                _ = module.weight
        yield


@torch.no_grad()
def _approach(averaged, module, share):
    for old, new in zip(averaged.state_dict().values(), module.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, share)


def _round_to_half(module):
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())


def _halves(tensors):
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def _refuse_divergence(losses, averaged, first, checkpoint):
    """The losses are those before a step's update: what the last one did shows in the weights."""
    lost = (~losses.isfinite()).any(1).nonzero().flatten().tolist()
    if lost or not all(value.isfinite().all() for value in averaged.state_dict().values()):
        step = first + (lost[0] if lost else len(losses) - 1)
        there = checkpoint and Path(checkpoint).exists()
        kept = f"the last good checkpoint is {checkpoint}" if there else "there is no checkpoint"
        raise FloatingPointError(f"GAN diverged at step {step}: it is no longer finite; {kept}")
