"""Surrogates: they learn the target's labels and nothing else, and fool it more than chance."""

from dataclasses import replace

import torch

from lib import attacks
from lib.augmentation import Identity
from lib.models import dense, initialise
from lib.surrogate import Together, random_signs, relabelled, train_surrogate, transferred
from lib.training import train

RECIPE = {"epochs": 8, "seed": 0, "batch_size": 16, "learning_rate": 0.01, "progress": False}


def target(tiny):
    model = initialise(dense(tiny.train_images.shape[1:], 3, [16]), 0)
    train(model, tiny, Identity(), **RECIPE)
    return model


def test_labels_are_those_that_the_target_gives(tiny):
    model = initialise(dense((1, 8, 8), 3), 0)  # untrained: it errs
    found = relabelled(tiny, model)
    with torch.no_grad():
        said = model(tiny.train_images.float() / 255).argmax(1)
    assert torch.equal(found.train_labels, said)
    assert not torch.equal(found.train_labels, tiny.train_labels)
    assert torch.equal(found.test_labels, attacks.predict(model, tiny.test_images.float() / 255))


def test_a_surrogate_never_sees_the_true_labels(tiny):
    model, surrogates = target(tiny), [initialise(dense((1, 8, 8), 3), 1) for _ in range(2)]
    wrong = replace(
        tiny, train_labels=tiny.train_labels.flip(0), test_labels=tiny.test_labels.flip(0)
    )
    agreements = [
        train_surrogate(surrogate, model, data, **RECIPE)
        for surrogate, data in zip(surrogates, (tiny, wrong), strict=True)
    ]
    assert agreements[0] == agreements[1]
    for one, other in zip(*(s.parameters() for s in surrogates), strict=True):
        assert torch.equal(one, other)
    x = tiny.test_images.float() / 255
    agree = attacks.predict(surrogates[0], x) == attacks.predict(model, x)
    assert abs(agreements[0] - agree.float().mean().item()) < 1e-6
    assert agreements[0] > 0.9


def test_what_fools_a_surrogate_fools_the_target_more_than_chance(tiny):
    model, surrogate = target(tiny), initialise(dense((1, 8, 8), 3), 1)
    train_surrogate(surrogate, model, tiny, **RECIPE)
    x, y, eps = tiny.test_images.float() / 255, tiny.test_labels, 0.35

    def fast(model, x, y):
        return attacks.fgsm(model, x, y, eps=eps)

    white = attacks.risk(model, x, y, fast)
    through = attacks.risk(model, x, y, transferred(surrogate, fast))
    chance = attacks.risk(model, x, y, random_signs(eps, torch.Generator().manual_seed(0)))
    assert white >= 0.5
    assert through >= 0.6 * white
    assert chance < through / 2


def test_the_attack_is_on_the_surrogate():
    one, other = dense((1, 4, 4), 2), dense((1, 4, 4), 2)
    seen = []
    attack = transferred(one, lambda model, x, y: seen.append(model) or x)
    attack(other, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    assert seen == [one]


def test_networks_together_have_the_mean_of_their_logits():
    x, networks = torch.rand(5, 1, 4, 4), [initialise(dense((1, 4, 4), 2), s) for s in range(3)]
    expected = sum(network(x) for network in networks) / 3
    assert torch.allclose(Together(networks)(x), expected, atol=1e-6)


def test_random_signs_move_every_pixel_as_far_as_it_may():
    x = torch.rand(20, 1, 4, 4)
    moved = random_signs(0.1, torch.Generator().manual_seed(0))(None, x, None)
    inside = (x > 0.1) & (x < 0.9)
    assert torch.allclose((moved - x).abs()[inside], torch.tensor(0.1), atol=1e-6)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert 0.3 < (moved > x).float().mean() < 0.7
    assert torch.equal(moved, random_signs(0.1, torch.Generator().manual_seed(0))(None, x, None))
