"""How good a factor's generator is: the rows of the table "generators"."""

from lib import attacks
from lib.gan import quality
from lib.records.tables import row
from lib.runtime import device
from lib.study.trained import generator, judge, train_or_load


def rows(profile, factor, *, progress=True):
    """Train a factor's generator, if that is to be done, and measure its quality; and its judge.

    Rows: the Frechet distance after each round, that of the test images as its yardstick, and the
    classification accuracy score, of a network trained on generated images alone (the point at
    p = 1). For colour images, where Inception's weights can be had, the FID of both as well.
    """
    network, by = generator(profile, factor, progress=progress), judge(profile)
    images, history = by.images, network.history
    n, last = len(images.test_labels), history[-1]["step"]

    def distance(of, step, value, features=profile.network):
        return row("generators", "Frechet distance", value, n, of=of, step=step, features=features)

    found = [distance("test images", 0, by.distance(images.test_images))]
    found += [
        distance("generated images", past["step"], past["distance"])
        for past in history[:-1]
        if past["judge"] == by.name
    ]
    found.append(distance("generated images", last, by.distance(by.generated(network))))
    inception = quality.inception(device()) if network.shape[0] == 3 else None
    if inception:
        real, made = inception(images.train_images), inception(by.generated(network))
        fresh = quality.distance_or_missing(real, inception(images.test_images))
        fid = quality.distance_or_missing(real, made)
        found.append(distance("test images", 0, fresh, "inception"))
        found.append(distance("generated images", last, fid, "inception"))
    model = train_or_load(profile, profile.point(factor, 1, by.seed), progress=progress)
    test = images.test_images.float().to(device()) / 255
    score = 1 - attacks.risk(model, test, images.test_labels.to(device()))
    found.append(row("generators", "classification accuracy score", score, n, step=last))
    seconds = sum(past["seconds"] for past in history)
    found.append(row("generators", "training seconds", seconds, 1, step=last))
    return found
