"""GANs: their losses and networks against definitions, their training, and what they learn."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrize

from lib import checkpoint as checkpoints
from lib.checkpoint import CheckpointError
from lib.data import ImageDataset, load
from lib.gan import networks as gan_networks
from lib.gan import training as gan
from lib.gan.quality import frechet_distance
from lib.gan.training import train_gan
from tests.test_training import empty, few_bytes, half, text

KINDS, NETWORKS = ("ns", "wgp"), ("dense", "residual")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
RECIPE = {
    "steps": 6, "seed": 1, "width": 8, "critic_width": 8, "latent": 4, "batch_size": 8,
    "critic_steps": 2, "learning_rate": 2e-3, "average": 0.8, "rounds": 3, "progress": False,
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)
networks = pytest.mark.parametrize("network", NETWORKS)
precisions = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def random_dataset(shape, n=24):
    def images(seed):
        return torch.randint(0, 256, (n, *shape), generator=rng(seed)).to(torch.uint8)

    labels = torch.arange(n) % 3
    return ImageDataset("random", ("a", "b", "c"), images(0), labels, images(1), labels)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def timeless(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def same_training(a, b):
    return (
        same(state(a), state(b))
        and torch.equal(a.previews, b.previews)
        and timeless(a.history) == timeless(b.history)
    )


def game(kind, dataset, network="dense", device="cpu", **recipe):
    """The game of a training, to be played step by step."""
    recipe = {**RECIPE, "kind": kind, "network": network, "precision": "fp32", **recipe}
    return gan.Game(dataset, SimpleNamespace(**recipe), device)


class Stop(Exception):
    pass


def stopping(after, seen=None):
    """An `after_round` that stops the training in the round after `after` whole ones."""
    left = [after]

    def call(generator, record, previews):
        if not left[0]:
            raise Stop
        left[0] -= 1
        if seen is not None:
            seen.append(record)

    return call


def interrupted(kind, dataset, path, after, **recipe):
    with pytest.raises(Stop):
        train_gan(kind, dataset, checkpoint=path, after_round=stopping(after),
                  **RECIPE | {"checkpoint_seconds": 0} | recipe)  # fmt: skip


# ------------------------------------------------------------------ the generator


@pytest.fixture(scope="module", params=itertools.product(KINDS, NETWORKS), ids="-".join)
def trained(request, tiny):
    kind, network = request.param
    return train_gan(kind, tiny, network=network, **RECIPE)


def test_generator_gives_images_of_labels(trained, global_rng_untouched):
    labels = torch.arange(7) % 3
    one, again, other = (
        global_rng_untouched(lambda seed=seed: trained(labels, generator=rng(seed)))
        for seed in (1, 1, 2)
    )
    assert one.shape == (7, 1, 8, 8)
    assert one.dtype == torch.float32
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({image.numpy().tobytes() for image in one}) == 7
    assert (trained.shape, trained.classes) == ((1, 8, 8), 3)


def test_generator_is_frozen_and_in_eval_mode(trained):
    before = state(trained)
    assert not any(module.training for module in trained.modules())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert not trained(torch.zeros(5, dtype=torch.int64), generator=rng()).requires_grad
    assert same(state(trained), before)


def test_each_image_depends_on_its_own_label_and_latents_alone(trained):
    latents, labels = torch.randn(6, 4, generator=rng()), torch.tensor([0, 1, 2, 0, 1, 2])
    images = trained.images(latents, labels)
    assert images.min() >= -1
    others = torch.randn(6, 4, generator=rng(1))
    for i in range(6):
        own = torch.arange(6) == i
        mixed = trained.images(
            torch.where(own[:, None], latents, others), torch.where(own, labels, (labels + 1) % 3)
        )
        assert torch.equal(mixed[i], images[i])
        alone = trained.images(latents[own], labels[own])[0]
        assert torch.allclose(alone, images[i], atol=1e-6)
        other_label = trained.images(latents, torch.where(own, (labels + 1) % 3, labels))[i]
        other_latents = trained.images(torch.where(own[:, None], others, latents), labels)[i]
        assert not torch.allclose(other_label, images[i], atol=1e-6)
        assert not torch.allclose(other_latents, images[i], atol=1e-6)


def test_call_is_the_images_of_drawn_latents_in_0_1(trained):
    labels = torch.tensor([2, 0])
    latents = torch.randn(2, 4, generator=rng(3))
    expected = (trained.images(latents, labels) + 1) / 2
    assert torch.allclose(trained(labels, generator=rng(3)), expected)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0.0, 1.0], [[0], [1]]], ids=str)
def test_generator_refuses_what_are_no_labels(trained, labels, refuses):
    refuses(lambda: trained(torch.tensor(labels), generator=rng()), "labels")


def test_digest_stands_for_the_weights(trained):
    other = gan_networks.build("dense", (1, 8, 8), 3, width=8, critic_width=8, latent=4,
                               spectral=False)[0]  # fmt: skip
    digest = trained.digest()
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    twin = type(trained)(torch.Size((1, 8, 8)), 3, 8, 4)
    twin.load_state_dict(trained.state_dict())
    assert twin.digest() == digest != other.digest()
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0] += 1e-3
    assert twin.digest() != digest


# ------------------------------------------------------------------ networks by definition


@pytest.mark.parametrize("dimensions", [0, 2])
def test_conditional_norm_is_batch_norm_then_the_labels_own_scale_and_shift(dimensions):
    norm = (nn.BatchNorm2d if dimensions else nn.BatchNorm1d)(5, affine=False)
    layer = gan_networks.ConditionalNorm(norm, 3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=rng(1))
    x = 3 * torch.randn(12, 5, *[4] * dimensions, generator=rng()) + 1
    labels = torch.randint(0, 3, (12,), generator=rng())
    over = [0, *range(2, x.ndim)]
    place = (..., *[None] * dimensions)

    def expected(mean, var):
        return (x - mean) / (var + 1e-5).sqrt() * layer.scale[labels][place] + layer.shift[labels][
            place
        ]

    mean, var = x.mean(over, keepdim=True), x.var(over, keepdim=True, correction=0)
    assert torch.allclose(layer(x, labels), expected(mean, var), atol=1e-5)
    layer.eval()
    running = [v[None][place] for v in (norm.running_mean, norm.running_var)]
    assert torch.allclose(layer(x, labels), expected(*running), atol=1e-5)
    assert not torch.allclose(layer(x, labels), layer(x, (labels + 1) % 3), atol=1e-2)


@networks
def test_critic_scores_by_projection(network):
    """score = w . h + b + v_label . h: differences of labels are linear in h, zero where h is."""
    _, critic = gan_networks.build(network, (2, 8, 8), 3, width=4, critic_width=6, latent=2,
                                   spectral=False)  # fmt: skip
    x = 2 * torch.rand(5, 2, 8, 8, generator=rng()) - 1
    h = critic.body(x)
    assert h.shape == (5, 6)
    for label in range(3):
        weight = critic.score.weight[0] + critic.of_label.weight[label]
        scores = critic(x, torch.full((5,), label))
        assert scores.shape == (5,)
        assert torch.allclose(scores, h @ weight + critic.score.bias, atol=1e-4)


@networks
def test_critic_is_spectrally_normalised_only_for_the_non_saturating_loss(network, tiny):
    ns, wgp = (game(kind, tiny, network, steps=40) for kind in KINDS)
    assert not any(parametrize.is_parametrized(module) for module in wgp.critic.modules())
    for step in range(40):
        ns.step(step)
    ns.critic.eval()
    layers = [m for m in ns.critic.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    assert len(layers) >= 4
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
        assert norm == pytest.approx(1, abs=0.05)
    assert not any(parametrize.is_parametrized(module) for module in ns.generator.modules())


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (2, 5, 5), (1, 64, 64)])
def test_residual_networks_suit_square_images(shape):
    generator, critic = gan_networks.build("residual", shape, 3, width=4, critic_width=4, latent=3,
                                           spectral=True)  # fmt: skip
    images = generator(torch.tensor([0, 2]), generator=rng())
    assert images.shape == (2, *shape)
    assert critic(2 * images - 1, torch.tensor([0, 2])).shape == (2,)


# ------------------------------------------------------------------ losses by definition


class Toy(nn.Module):
    """A critic that can be differentiated by hand, and remembers what it is asked.

    score = linear . x + curve |x|^2 / 2 + bias of the label; its slope is linear + curve x.
    """

    def __init__(self, shape, slope=0.0, curve=0.0):
        super().__init__()
        linear = torch.randn(shape, generator=rng(5))
        self.linear = nn.Parameter(slope * linear / linear.norm())
        self.curve, self.asked = curve, []

    def forward(self, x, labels):
        self.asked.append((x.detach(), labels))
        flat = x.flatten(1)
        return flat @ self.linear.flatten() + self.curve * flat.square().sum(1) / 2 + labels.float()

    def scores(self, x, labels):
        x = x.flatten(1).double().numpy()
        linear = self.linear.detach().double().flatten().numpy()
        return x @ linear + self.curve * (x**2).sum(1) / 2 + labels.numpy()

    def slopes(self, x):
        x = x.flatten(1).double().numpy()
        return self.linear.detach().double().flatten().numpy() + self.curve * x


def losses_of(kind, dataset, critic):
    """The losses of one step with this critic at rate zero, and what the critic was asked."""
    played = game(kind, dataset, critic_steps=1, learning_rate=0.0, batch_size=16)
    played.critic = critic
    losses = played.step(0)
    assert losses.shape == (2,)
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    return losses.tolist(), critic.asked


def softplus(x):
    return np.log1p(np.exp(x))


def test_non_saturating_losses(tiny):
    toy = Toy((1, 8, 8), slope=0.5, curve=0.05)
    (of_critic, of_generator), ((both, labels), (fake, wanted)) = losses_of("ns", tiny, toy)
    real, made = np.split(toy.scores(both, labels), 2)
    assert of_critic == pytest.approx(softplus(-real).mean() + softplus(made).mean(), rel=1e-4)
    assert of_generator == pytest.approx(softplus(-toy.scores(fake, wanted)).mean(), rel=1e-4)


@pytest.mark.parametrize(("slope", "curve"), [(1, 0), (0.2, 0), (4, 0), (0, 0.3), (2, 0.3)])
def test_wasserstein_losses_with_penalty(slope, curve, tiny):
    """mean fake - mean real + 10 mean (|slope| - 1)^2, at points between real and generated."""
    toy = Toy((1, 8, 8), slope, curve)
    (of_critic, of_generator), ((both, labels), (between, own), (fake, wanted)) = losses_of(
        "wgp", tiny, toy
    )
    real, made = np.split(toy.scores(both, labels), 2)
    penalty = 10 * (np.linalg.norm(toy.slopes(between), axis=1) - 1) ** 2
    assert of_critic == pytest.approx(made.mean() - real.mean() + penalty.mean(), rel=1e-4)
    if not curve:  # linear: the slope is the same everywhere
        assert of_critic == pytest.approx(made.mean() - real.mean() + 10 * (slope - 1) ** 2, 1e-4)
    assert of_generator == pytest.approx(-toy.scores(fake, wanted).mean(), rel=1e-4)
    assert torch.equal(own, labels[:16])
    ends = both.flatten(1).double().chunk(2)
    shares = []
    for point, a, b in zip(between.flatten(1).double(), *ends, strict=True):
        share = ((point - b) @ (a - b) / (a - b).square().sum()).item()
        assert torch.allclose(share * a + (1 - share) * b, point, atol=1e-5)
        shares.append(share)
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) - min(shares) > 0.3  # each its own


@kinds
def test_critic_sees_training_images_and_generated_ones_of_the_same_labels(kind, tiny):
    toy = Toy((1, 8, 8), 1)
    _, asked = losses_of(kind, tiny, toy)
    (both, labels), (fake, _) = asked[0], asked[-1]
    real, made = both.chunk(2)
    assert torch.equal(labels[:16], labels[16:])
    known = {
        (image.numpy().tobytes(), label)
        for image, label in zip(tiny.train_images, tiny.train_labels.tolist(), strict=True)
    }
    pixels = ((real + 1) * 127.5).round().to(torch.uint8)
    drawn = {
        (image.numpy().tobytes(), label)
        for image, label in zip(pixels, labels[:16].tolist(), strict=True)
    }
    assert drawn <= known
    assert len(drawn) > 8
    assert made.abs().max() <= 1
    assert fake.shape == (16, 1, 8, 8)
    assert not torch.equal(fake, made)


# ------------------------------------------------------------------ training


@precisions
@kinds
def test_a_step_on_colour_images(kind, precision, global_rng_untouched):
    dataset = random_dataset((3, 32, 32))
    kept = replace(dataset, train_images=dataset.train_images.clone())
    settings = RECIPE | {"steps": 1, "precision": precision}
    generator = global_rng_untouched(lambda: train_gan(kind, dataset, **settings))
    images = generator(torch.arange(3), generator=rng())
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert all(
        value.isfinite().all() and value.dtype in (torch.float32, torch.int64)
        for value in generator.state_dict().values()
    )
    untrained = train_gan(kind, dataset, **settings | {"learning_rate": 0.0})
    assert not same(state(generator), state(untrained))
    assert replace(dataset).checksum == kept.checksum


@kinds
def test_a_step_of_the_default_networks(kind):
    settings = {"batch_size": 4, "critic_steps": 1, "progress": False}
    generator = train_gan(kind, random_dataset((3, 32, 32)), steps=1, seed=0, **settings)
    assert generator(torch.tensor([1]), generator=rng()).shape == (1, 3, 32, 32)
    assert sum(parameter.numel() for parameter in generator.parameters()) > 1e6


@pytest.mark.parametrize("device", DEVICES)
@kinds
def test_works_on_every_device(kind, device, tiny):
    generator = train_gan(kind, tiny, device=device, **RECIPE)
    labels = torch.arange(3, device=device)
    images = generator(labels, generator=rng(0, device))
    assert images.device.type == device
    assert generator.previews.shape == (3, 3, 1, 8, 8)


@networks
@kinds
def test_half_precision_stays_near_and_spares_what_is_delicate(kind, network, tiny):
    """The networks' layers run in bf16; losses, weights and power iteration are fp32."""
    exact, rough = (game(kind, tiny, network, precision=p) for p in ("fp32", "bf16"))
    ran, weights = [], []

    def watch(module, inputs, output):
        ran.append(output.dtype)

    def weigh(module, inputs):
        weights.append(module.weight.dtype)

    for module in [*rough.generator.modules(), *rough.critic.modules()]:
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(watch)
            module.register_forward_pre_hook(weigh)
    losses = [played.step(0) for played in (exact, rough)]
    assert losses[1].dtype == torch.float32
    assert torch.allclose(*losses, rtol=0.05, atol=0.05)
    assert not torch.equal(*losses)
    assert torch.bfloat16 in ran
    assert set(weights) == {torch.float32}
    for module in (rough.generator, rough.critic, rough.averaged):
        assert {value.dtype for value in module.state_dict().values()} <= {
            torch.float32, torch.int64,
        }  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@networks
def test_power_iteration_is_spared_half_precision(network, device, tiny):
    """At rate zero the critic's weights stay, and its singular vectors are those of fp32.

    It takes a GPU to see the difference: on the CPU autocast leaves these products alone.
    """
    exact, rough = (
        game("ns", tiny, network, device, precision=p, learning_rate=0.0) for p in ("fp32", "bf16")
    )
    before = state(rough.critic)
    for played in (exact, rough):
        played.step(0)
    assert not same(state(rough.critic), before)
    assert same(state(rough.critic), state(exact.critic))


@networks
@kinds
def test_seed_decides(kind, network, tiny, global_rng_untouched):
    """And nothing else: what the global generator is at then is neither read nor moved."""

    def run(seed, elsewhere):
        with torch.random.fork_rng():
            torch.manual_seed(elsewhere)
            return global_rng_untouched(
                lambda: train_gan(kind, tiny, network=network, **RECIPE | {"seed": seed})
            )

    one, again, other = run(1, 10), run(1, 11), run(2, 10)
    assert same_training(one, again)
    assert not same(state(one), state(other))
    assert not torch.equal(one.previews, other.previews)


def test_test_images_are_not_learned_from(tiny):
    other = replace(tiny, test_images=255 - tiny.test_images, test_labels=2 - tiny.test_labels)
    assert same_training(*(train_gan("ns", data, **RECIPE) for data in (tiny, other)))


@kinds
def test_a_step_is_so_many_updates_at_a_rate_that_falls_linearly(kind, tiny):
    played = game(kind, tiny, steps=8, critic_steps=3, learning_rate=0.01)
    for step in range(8):
        played.step(step)
        for optimizer, updates in zip(played.optimizers, (1, 3), strict=True):
            (group,) = optimizer.param_groups
            assert group["lr"] == pytest.approx(0.01 * (8 - step) / 8)
            assert group["betas"] == (0, 0.9)
            counts = {int(moments["step"]) for moments in optimizer.state.values()}
            assert counts == {updates * (step + 1)}


@kinds
def test_first_update_of_adam_is_as_long_as_the_rate(kind, tiny):
    """Of generator and critic alike: the gradient's sign times the rate, where there is one."""
    played = game(kind, tiny, critic_steps=1, learning_rate=1e-3)
    befores = [state(module) for module in (played.generator, played.critic)]
    played.step(0)
    for module, before in zip((played.generator, played.critic), befores, strict=True):
        moved = [
            (value - before[name]).abs().max().item() for name, value in module.named_parameters()
        ]
        assert max(moved) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("average", [0.0, 0.3, 0.8, 1.0])
@networks
def test_average_is_the_recursion(network, average, tiny):
    """a_n = d a_(n-1) + (1 - d) g_n, d = average, less in the first steps: (n + 1) / (n + 10)."""
    played = game("ns", tiny, network, average=average, steps=12)
    expected = {name: v.double() for name, v in state(played.generator).items()}
    for n in range(12):
        played.step(n)
        d = min(average, (n + 1) / (n + 10))
        for name, value in played.generator.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    for name, value in played.averaged.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    returned = train_gan("ns", tiny, network=network, **RECIPE | {"average": average, "steps": 12})
    for name, value in returned.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, value.half().float())
            assert torch.allclose(value.double(), expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("steps", "rounds", "expected"),
                         [(7, 3, 3), (2, 10, 2), (5, 1, 1), (10, 10, 10), (11, 4, 4)])  # fmt: skip
def test_history_and_previews_have_a_row_a_round(steps, rounds, expected, tiny):
    generator = train_gan("wgp", tiny, **RECIPE | {"steps": steps, "rounds": rounds})
    ends = [row["step"] for row in generator.history]
    assert len(ends) == expected
    assert ends == sorted(set(ends))
    assert ends[-1] == steps
    assert max(np.diff([0, *ends])) - min(np.diff([0, *ends])) <= 1
    for row in generator.history:
        assert row.keys() == {"step", "critic", "generator", "seconds"}
        assert row["seconds"] > 0
    assert generator.previews.shape == (expected, 3, 1, 8, 8)
    assert generator.previews.dtype == torch.uint8


@kinds
def test_record_holds_the_rounds_mean_losses(kind, tiny):
    played = game(kind, tiny)
    losses = torch.stack([played.step(step) for step in range(6)])
    history = train_gan(kind, tiny, network="dense", **RECIPE).history
    for row, mean in zip(history, losses.view(3, 2, 2).mean(1).tolist(), strict=True):
        assert [row["critic"], row["generator"]] == pytest.approx(mean, rel=1e-5)


@networks
def test_previews_are_images_of_the_same_latents_one_a_class(network, tiny):
    generator = train_gan("ns", tiny, network=network, **RECIPE | {"learning_rate": 0.0})
    first, *others = generator.previews
    means = [preview.float().mean() for preview in generator.previews]
    assert max(means) - min(means) < 20  # the statistics of batch norm alone move
    generator = train_gan("ns", tiny, network=network, **RECIPE)
    shown = game("ns", tiny, network).shown
    images = (generator.images(shown, torch.arange(3)) + 1) / 2
    assert (images * 255 - generator.previews[-1].float()).abs().max() <= 0.5 + 1e-3


def test_after_round_sees_the_round_and_adds_to_its_record(tiny, tmp_path):
    path, seen = tmp_path / "gan.safetensors", []

    def after(generator, record, previews):
        assert not generator.training
        images = generator(torch.arange(3), generator=rng())
        assert 0 <= images.min() <= images.max() <= 1
        seen.append(previews.clone())
        record["brightness"] = images.mean().item()

    generator = train_gan("ns", tiny, after_round=after, checkpoint=path, **RECIPE)
    assert [len(previews) for previews in seen] == [1, 2, 3]
    assert torch.equal(seen[-1], generator.previews)
    assert torch.equal(seen[0], generator.previews[:1])
    images = generator(torch.arange(3), generator=rng())
    assert generator.history[-1]["brightness"] == images.mean().item()
    assert all("brightness" in row for row in generator.history)
    assert train_gan("ns", tiny, checkpoint=path, **RECIPE).history == generator.history


# ------------------------------------------------------------------ interruptions and checkpoints


@networks
@kinds
@pytest.mark.parametrize("after", [0, 1, 2], ids=lambda after: f"after {after} rounds")
def test_resumes_to_the_same(after, kind, network, tiny, tmp_path):
    path, seen = tmp_path / "folder" / "gan.safetensors", []
    whole = train_gan(kind, tiny, network=network, **RECIPE)
    interrupted(kind, tiny, path, after, network=network)
    assert path.exists() == (after > 0)
    resumed = train_gan(kind, tiny, network=network, checkpoint=str(path),
                        after_round=stopping(9, seen), **RECIPE)  # fmt: skip
    assert len(seen) == 3 - after
    assert same_training(resumed, whole)
    assert list(path.parent.iterdir()) == [path]


def test_resumes_after_two_interruptions_in_half_precision(tiny, tmp_path):
    path, half = tmp_path / "gan", {"network": "residual", "precision": "bf16"}
    whole = train_gan("ns", tiny, **RECIPE | half)
    interrupted("ns", tiny, path, 1, **half)
    interrupted("ns", tiny, path, 1, **half)
    assert same_training(train_gan("ns", tiny, checkpoint=path, **RECIPE | half), whole)


def test_a_checkpoint_is_not_written_more_often_than_asked(tiny, tmp_path):
    path = tmp_path / "gan"
    interrupted("ns", tiny, path, 2, checkpoint_seconds=3600)
    assert not path.exists()
    train_gan("ns", tiny, checkpoint=path, checkpoint_seconds=3600, **RECIPE)
    assert path.exists()


@networks
@kinds
def test_a_finished_training_is_returned_at_once_and_small(
    kind, network, tiny, tmp_path, monkeypatch
):
    path, settings = tmp_path / "gan", RECIPE | {"network": network, "checkpoint_seconds": 0}
    first = train_gan(kind, tiny, checkpoint=path, **settings)
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        history = json.loads(file.metadata()["history"])
    previews = [name for name in stored if name.startswith("previews.")]
    weights = {
        name.removeprefix("averaged."): value
        for name, value in stored.items()
        if name.startswith("averaged.")
    }
    assert len(stored) == len(previews) + len(weights)
    assert torch.equal(stored[previews[0]], first.previews)
    for name, value in first.state_dict().items():
        assert torch.equal(weights[name].to(value.dtype), value)
        assert weights[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
    assert history == first.history

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(gan.Game, "step", never)
    before = path.read_bytes()
    second = train_gan(kind, tiny, checkpoint=path, after_round=never, **settings)
    assert same(state(first), state(second))
    assert torch.equal(first.previews, second.previews)
    assert second.history == first.history
    assert not second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert path.read_bytes() == before


def spoilt_from(step, monkeypatch):
    """From this step on (counted from 0) the losses are not finite."""
    play = gan.Game.step

    def spoilt(self, number):
        losses = play(self, number)
        return losses * float("nan") if number >= step else losses

    monkeypatch.setattr(gan.Game, "step", spoilt)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_divergence_leaves_the_last_good_checkpoint(step, tiny, tmp_path, monkeypatch, refuses):
    path = tmp_path / "gan.safetensors"
    interrupted("ns", tiny, path, step // 2)
    before = path.read_bytes()
    with monkeypatch.context() as spoilt:
        spoilt_from(step, spoilt)
        refuses(
            lambda: train_gan("ns", tiny, checkpoint=path, checkpoint_seconds=0, **RECIPE),
            f"step {step}", path, error=FloatingPointError,
        )  # fmt: skip
        refuses(
            lambda: train_gan("ns", tiny, **RECIPE),
            f"step {step}", "no checkpoint", error=FloatingPointError,
        )  # fmt: skip
    assert path.read_bytes() == before
    whole = train_gan("ns", tiny, **RECIPE)
    assert same_training(train_gan("ns", tiny, checkpoint=path, **RECIPE), whole)


@kinds
def test_divergence_of_an_enormous_rate(kind, tiny, tmp_path, refuses):
    path = tmp_path / "gan.safetensors"
    refuses(
        lambda: train_gan(kind, tiny, network="dense", checkpoint=path,
                          **RECIPE | {"learning_rate": 1e30}),
        "step", error=FloatingPointError,
    )  # fmt: skip
    assert not path.exists()


def test_divergence_before_the_first_checkpoint_names_none(tiny, tmp_path, monkeypatch, refuses):
    path = tmp_path / "gan.safetensors"
    spoilt_from(0, monkeypatch)
    message = refuses(
        lambda: train_gan("ns", tiny, checkpoint=path, **RECIPE), "step 0", error=FloatingPointError
    )
    assert "last good checkpoint is" not in message
    assert not path.exists()


@pytest.mark.parametrize(("kind", "rate"), [("wgp", 1e6), ("ns", 1e30)])
def test_divergence_in_the_very_last_update_is_seen(kind, rate, tiny, tmp_path):
    """The losses of the last step are finite still, but not the weights in half precision."""
    path = tmp_path / "gan.safetensors"
    settings = RECIPE | {"network": "dense", "steps": 1, "critic_steps": 1, "learning_rate": rate}
    with pytest.raises(FloatingPointError):
        train_gan(kind, tiny, checkpoint=path, **settings)
    assert not path.exists()


CHANGES = [
    {"width": 9}, {"critic_width": 9}, {"latent": 5}, {"network": "residual"}, {"seed": 2},
    {"steps": 7}, {"critic_steps": 1}, {"batch_size": 9}, {"learning_rate": 1e-3},
    {"average": 0.5}, {"precision": "bf16"}, {"rounds": 2}, {"kind": "wgp"},
]  # fmt: skip


@pytest.fixture(params=[2, 3], ids=["unfinished", "finished"])
def path(request, tiny, tmp_path):
    path = tmp_path / "gan.safetensors"
    if request.param == 3:
        train_gan("ns", tiny, network="dense", checkpoint=path, **RECIPE)
    else:
        interrupted("ns", tiny, path, request.param, network="dense")
    return path


def again(dataset, path, **change):
    settings = RECIPE | {"kind": "ns", "network": "dense"} | change
    return train_gan(settings.pop("kind"), dataset, checkpoint=path, **settings)


def test_a_checkpoint_of_another_training_is_refused(path, tiny, refuses):
    before = path.read_bytes()
    for change in CHANGES:
        refuses(
            lambda change=change: again(tiny, path, **change), path, *change, error=CheckpointError
        )
    other = replace(tiny, train_images=255 - tiny.train_images)
    refuses(lambda: again(other, path), path, "data", error=CheckpointError)
    assert path.read_bytes() == before


def folder(path):
    path.unlink()
    path.mkdir()


def stored(path):
    with safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    return recipe, *checkpoints.restore(path, recipe)


def a_part_less(path):
    recipe, parts, history = stored(path)
    del parts["averaged"]
    checkpoints.save(path, parts, recipe, history)


def a_weight_less(path):
    recipe, parts, history = stored(path)
    parts["averaged"].popitem()
    checkpoints.save(path, parts, recipe, history)


def another_shape(path):
    recipe, parts, history = stored(path)
    name, value = next(iter(parts["averaged"].items()))
    parts["averaged"][name] = value[:1]
    checkpoints.save(path, parts, recipe, history)


@pytest.mark.parametrize(
    "damage", [half, few_bytes, empty, text, folder, a_part_less, a_weight_less, another_shape]
)
def test_a_damaged_or_foreign_checkpoint_is_named(damage, path, tiny, refuses):
    damage(path)
    refuses(lambda: again(tiny, path), path, error=CheckpointError)


BAD = [
    ({"kind": "lsgan"}, ["lsgan", *KINDS]),
    ({"precision": "fp8"}, ["fp8", "fp32", "bf16"]),
    ({"network": "transformer"}, ["transformer", *NETWORKS]),
    *[({name: value}, [name, value]) for value in (0, -1, 1.5) for name in (
        "steps", "width", "critic_width", "latent", "batch_size", "critic_steps", "rounds")],
    ({"learning_rate": -0.1}, ["learning_rate", -0.1]),
    ({"learning_rate": float("nan")}, ["learning_rate", "nan"]),
    ({"average": 1.5}, [1.5]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BAD, ids=[str(change) for change, _ in BAD])
def test_senseless_settings(change, said, tiny, tmp_path, refuses):
    refuses(lambda: again(tiny, tmp_path / "gan", **change), *said)
    assert not list(tmp_path.iterdir())


@kinds
def test_images_that_are_not_square_need_the_dense_network(kind, refuses):
    dataset = random_dataset((2, 6, 10))
    refuses(lambda: train_gan(kind, dataset, network="residual", **RECIPE), "square", 6, 10)
    generator = train_gan(kind, dataset, network="dense", **RECIPE)
    assert generator(torch.tensor([0]), generator=rng()).shape == (1, 2, 6, 10)


# ------------------------------------------------------------------ what is learned


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@kinds
def test_learns_the_digits(kind, digits):
    """Nearer to the images than before, and the image of a label is nearest to that class."""
    recipe = {
        "seed": 0, "network": "dense", "width": 128, "critic_width": 128, "latent": 16,
        "critic_steps": 1 if kind == "ns" else 2, "learning_rate": 1e-3, "average": 0.99,
        "progress": False,
    }  # fmt: skip
    real = digits.train_images.flatten(1).double() / 255
    labels = digits.test_labels
    centre, (_, _, axes) = real.mean(0), torch.linalg.svd(real - real.mean(0), full_matrices=False)
    before, after = (
        train_gan(kind, digits, **recipe | change)(labels, generator=rng()).flatten(1).double()
        for change in ({"steps": 1, "learning_rate": 0.0}, {"steps": 300})
    )

    def distance(images):
        return frechet_distance(*((part - centre) @ axes[:20].T for part in (real, images)))

    means = torch.stack([real[digits.train_labels == label].mean(0) for label in range(10)])
    right = (torch.cdist(after, means).argmin(1) == labels).double().mean()
    assert distance(after) < distance(before) / 4
    assert right > 0.75
    test = digits.test_images.flatten(1).double() / 255
    assert distance(test) < distance(after)
    # Not one image a class: within a class they vary as real ones do, within a factor.
    spread, expected = (
        torch.stack([x[y == label].var(0).sum() for label in range(10)]).mean()
        for x, y in ((after, labels), (real, digits.train_labels))
    )
    assert 0.3 < spread / expected < 2
    assert F.mse_loss(after[labels == 0].mean(0), means[0]) < F.mse_loss(means[1], means[0])
