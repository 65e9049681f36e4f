# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Three ways to augment
#
# Where may new examples come from? From an expert who knows what leaves a label unchanged. From
# the data, by combining what is there. From a model of the data that draws new ones. The talk
# compares augmentations of each kind; this chapter looks at what they do to images and labels, for
# every probability $p$ on the study's dial, and measures how far from the data they lead.

# %% tags=["parameters"]
profile = "digits"  # a data set that comes with scikit-learn: nothing to download
augmentation = "classic"  # the one shown in the close-up
p = 0.5  # where the study's dial stands in the close-up
seed = 0  # every draw below comes from this number

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display

from lib import data, study
from lib.augmentation import Mixup, changed, drawn_in_batches
from lib.book import charts
from lib.gan import quality
from lib.seeds import generator
from lib.study import Profile, recorded
from lib.training import to_sample

settings = Profile.load(profile)
images = study.dataset(settings)
names = images.classes
first = [int((images.train_labels == k).nonzero()[0, 0]) for k in range(len(names))]
S = to_sample(images.train_images[first], images.train_labels[first], len(names))

charts.pictures(
    S.x.numpy(),
    titles=list(names),
    columns=len(names),
    description=f"One training image of each class of {images.name}",
)

# %% [markdown]
# ## The expert's: classic transforms
#
# Whoever labels photographs knows that a mirrored dog is a dog. For colour images the *classic*
# augmentation is a random crop after padding by four pixels, a mirror image in half of the cases,
# a jitter of brightness, contrast and saturation by up to a quarter, and a rotation by up to two
# degrees. For digits the expert knows something else: a mirrored 2 is no 2. There it is a shift by
# up to one pixel, a rotation by up to fifteen degrees and a zoom by up to a tenth.
#
# Each transform tosses its own coin for each example, so between untouched and fully transformed
# there is every mixture:

# %%
dial = settings.grid["p"]
chosen = [q for q in dial if q in (0, 0.25, 0.5, 0.75, 1)] or dial


def at_every_p(name):
    """The first images under the augmentation `name`, a row for each p."""
    draws = [
        study.augmentation(settings, name, q)(S, generator(seed, "dial", name)).x for q in chosen
    ]
    return charts.pictures(
        torch.cat(draws).numpy(),
        rows=[f"p = {q:g}" for q in chosen],
        titles=list(names),
        description=f"The same images under {name} augmentation as p grows",
    )


at_every_p("classic")

# %% [markdown]
# The rows with $0 < p < 1$ use the same random numbers: going down a column, more of the coins fall
# heads. At $p = 0$ and at $p = 1$ no coin is tossed, and the draw at $p = 1$ is another.
#
# At the $p$ of this chapter's parameters, with what the augmentation changed (grey is no change):

# %% tags=["hide-input"]
A = study.augmentation(settings, augmentation, p)
drawn = A(S, generator(seed, "close-up")).x
charts.pictures(
    torch.cat([S.x, drawn, (0.5 + (drawn - S.x) / 2)]).numpy(),
    rows=["original", f"p = {p:g}", "change"],
    description=f"The images, one draw of {augmentation} augmentation, and their difference",
)

# %% [markdown]
# ## The combination: mixup
#
# Mixup {cite}`zhang2018` draws one weight $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ for a minibatch
# and a partner for every example in it, and blends images *and labels*:
#
# $$
# \begin{aligned}
# \tilde x &= \lambda x_i + (1 - \lambda) x_j , \\
# \tilde y &= \lambda y_i + (1 - \lambda) y_j .
# \end{aligned}
# $$
#
# No photograph looks like this, and where the classes differ the label is a distribution over classes.
# One coin decides for the whole minibatch, as in the later code of the talk's authors, and $\alpha = 1$.
# An example that draws itself as its partner stays as it is.

# %%
mixed = study.augmentation(settings, "mixup")(S, generator(seed, "blend"))


def reading(y):
    """The two largest probabilities of a label as text."""
    weights, classes = y.topk(2)
    return ", ".join(
        f"{names[k]} {w:.0%}" for w, k in zip(weights.tolist(), classes.tolist(), strict=True) if w
    )


charts.pictures(
    mixed.x.numpy(),
    titles=[reading(y) for y in mixed.y],
    columns=5,
    description="Ten blended images with their soft labels",
)

# %% [markdown]
# Drawn as a picture, the labels of these ten examples are a matrix: a line for an example, a column
# for a class, white for a probability of one. With $\alpha = 1$ every weight is equally likely;
# with $\alpha = 0.1$ most lie near 0 or 1. Per batch, all labels share one weight; per
# example, each has its own, and the outputs are independent given the sample. That is less than
# [chapter 1](01_definition) asks for: over the sample as well they are dependent in both forms.

# %%
kinds = {
    "no mixup": None,
    "α = 1, per batch": Mixup(1.0),
    "α = 1, per example": Mixup(1.0, per="example"),
    "α = 0.1, per example": Mixup(0.1, per="example"),
}
labels = [S.y if kind is None else kind(S, generator(seed, "labels")).y for kind in kinds.values()]
charts.pictures(
    torch.stack(labels)[:, None].numpy(),
    titles=list(kinds),
    scale=14,
    description="The labels of ten examples as matrices, before and after three kinds of mixup",
)

# %% [markdown]
# ## The generator's: conditional GANs
#
# A generator $G$ maps noise $z$ and a label $y$ to an image. It learns from a critic $D$ that scores
# how real an image with a label looks. With the *non-saturating* loss {cite}`goodfellow2014` critic
# and generator minimise
#
# $$
# \begin{aligned}
# L_D &= \mathbb E\, \mathrm{softplus}(-D(x, y)) + \mathbb E\, \mathrm{softplus}(D(G(z, y), y)), \\
# L_G &= \mathbb E\, \mathrm{softplus}(-D(G(z, y), y)) ,
# \end{aligned}
# $$
#
# with $(x, y)$ from the data and $z$ Gaussian. Dividing the weights of each layer of the critic by an
# estimate of their spectral norm {cite}`miyato2018` limits how fast its score can change
# (**gan-ns**). With the *Wasserstein* loss and a gradient penalty {cite}`gulrajani2017` they
# minimise
#
# $$
# \begin{aligned}
# L_D &= \mathbb E\, D(G(z, y), y) - \mathbb E\, D(x, y)
#        + 10\, \mathbb E \big(\lVert \nabla_{\hat x} D(\hat x, y) \rVert - 1\big)^2 , \\
# L_G &= - \mathbb E\, D(G(z, y), y) ,
# \end{aligned}
# $$
#
# with $\hat x$ uniform on the segment between a real image and one generated for the same label, pixels
# running from $-1$ to $1$ (**gan-wgp**). In both the
# label enters the critic as a projection {cite}`miyato2018projection` and the generator through
# the scale and shift of its batch norms {cite}`devries2017`. What is kept is a moving average of
# the generator's weights.
#
# As an augmentation, a generator replaces an example, with probability $p$, by a new image of the
# same label, a fresh one at every use. Of a soft label, which a composition with mixup hands it, it
# draws a class. Both generators are trained on the training images alone, before the study, and
# one generator serves all seeds. (Where no trained generator is at hand, the next cell trains it:
# seconds for digits, for CIFAR-10 a matter for a GPU.)

# %%
generative = [name for name in settings.augmentations if settings.generators(name)]
networks = {name: study.generator(settings, name) for name in generative}
for name, network in networks.items():
    rounds = range(len(network.history))
    shown = [i for i in rounds if i in (0, 1, 3) or i == rounds[-1]]
    steps = [network.history[i]["step"] for i in shown]
    previews = network.previews[shown].flatten(0, 1).cpu().numpy() / 255
    display(
        Markdown(f"**{name}**"),
        charts.pictures(
            previews,
            rows=[f"step {step}" for step in steps],
            titles=list(names),
            description=f"Images of {name} by class and training step, always of the same noise",
        ),
    )

# %% tags=["hide-input"]
READS = ["generators"]  # tables, of every recorded study
studies, _ = recorded.studies(settings, *READS)
for one in studies:
    for name, kept in recorded.previews(one.profile).items():
        display(
            Markdown(f"**{name}**, {one.label}"),
            charts.pictures(
                kept / 255,
                titles=list(data.CLASSES[one.profile.dataset]),
                description=f"Images of {name} at the end of its training, {one.label}",
            ),
        )

# %% [markdown]
# ## How good are they?
#
# Fit a Gaussian to the features of real images and one to those of generated images. The squared
# *Fréchet distance* of the two {cite}`heusel2017`,
#
# $$
# \lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{tr}\!\big(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\big) ,
# $$
#
# is small if means and covariances of the two sets agree. It has a name of its
# own, FID, only in the features of one Inception network; the talk's generators had FIDs of 20.11
# (NS) and 18.30 (WGP) on CIFAR-10. Where that network's weights cannot be had, and for images it
# was not made for, the distance is taken in the features of the study's own network at $p = 0$. That
# is another scale, to be compared only within the same features and for as many images. Its yardstick
# is the distance of the test images, what fresh real images score. It is no strict lower bound: a
# generator that copied its training images would score less.


# %% tags=["hide-input"]
def against_steps(one):
    """A generator's distance after each round, beside that of the test images."""
    table, network = one["generators"], one.profile.network
    table = table[(table.measure == "Frechet distance") & (table.features == network)]
    return charts.against(
        table[table.of == "generated images"],
        "step",
        x_title="step of the generator's training",
        y=f"Fréchet distance in the features of {network}",
        format=".3~g",
        rule=table.loc[table.of == "test images", "value"].mean(),
        description=f"{one.label}: Fréchet distance of generated from training images against training "
        "steps; the dashed line is the distance of the test images",
    )


lacks = [Markdown(f"{one.label}: {line}.") for one in studies for line in one.lacks]
display(*lacks, *map(against_steps, studies))


# %% tags=["hide-input"]
def how_good(one):
    """A line for each generator: what its last round reached."""
    last = one["generators"].sort_values("step")
    last = last.groupby(["augmentation", "measure", "of", "features"], dropna=False).last()
    rows = []
    for name, part in last.reset_index().groupby("augmentation"):
        value = part.set_index(["measure", "of", "features"]).value.to_dict()
        kinds = {"distance": "generated images", "test images": "test images"}
        row = {"generator": name}
        row |= {k: value["Frechet distance", of, one.profile.network] for k, of in kinds.items()}
        by_measure = part.set_index("measure").value
        row |= {"score": by_measure["classification accuracy score"], "steps": int(part.step.max())}
        row["seconds"] = by_measure["training seconds"]
        if (fid := value.get(("Frechet distance", "generated images", "inception"))) is not None:
            row["FID"] = fid
        rows.append(row)
    return charts.table(
        pd.DataFrame(rows),
        caption=f"The generators of {one.label}: Fréchet distance in the features of "
        f"{one.profile.network}, that of the test images, the classification accuracy score, and what "
        "the training took",
        formats={"score": ".1%", "seconds": ".0f"},
    )


display(*map(how_good, studies))

# %% [markdown]
# The *classification accuracy score* {cite}`ravuri2019` is what a network reaches on real test images
# that has seen generated images alone, fresh ones at every step: one minus the clean error of the
# study's network at $p = 1$, here of its first seed. How good a generator is depends on the randomness
# of its own training, which no interval in this book covers: there is one of each kind.
#
# Where the coin fell heads there is a generated image, the same one in all rows with $0 < p < 1$:

# %% tags=["hide-input"]
for name in generative:
    display(Markdown(f"**{name}**"), at_every_p(name))

# %% [markdown]
# ## Compositions
#
# Augmentations compose. `classic+mixup` first transforms, then blends; each factor has the same $p$
# and a coin of its own.

# %% tags=["hide-input"]
composed = [name for name in settings.grid["augmentation"] if "+" in name]
for name in ["mixup", *composed]:
    display(Markdown(f"**{name}**"), at_every_p(name))

# %% [markdown]
# ## How much is augmented?
#
# The share of 1,000 training examples that differ from their originals after one draw, minibatch by
# minibatch as in training:


# %%
def over_batches(name, sample, s, q=1.0):
    A, stream = study.augmentation(settings, name, q), generator(s, "over batches", name, q)
    return drawn_in_batches(A, sample, stream, settings.training["batch_size"])


some = to_sample(images.train_images[:1000], images.train_labels[:1000], len(names))


def share(name, q, s):
    """Share of the examples that one draw changes."""
    return changed(some, over_batches(name, some, s, q)).float().mean().item()


everyone = [name for name in settings.grid["augmentation"] if not settings.attacks(name)]
shares = pd.DataFrame(
    [
        {"augmentation": name, "p": q, "seed": s, "value": share(name, q, s)}
        for name in everyone
        for q in dial
        for s in settings.grid["seed"]
    ]
)
charts.against_p(
    shares,
    y="share of examples augmented",
    format=".0%",
    description="Share of 1,000 training examples that each augmentation changes, against p",
)

# %% [markdown]
# Classic augmentation has several coins for each example, so most examples are changed long before
# $p = 1$. A generator has one coin for each, and the share is close to $p$. Mixup has one coin for a
# minibatch: on average the share is close to $p$ (less the examples that are their own partners, one a
# minibatch), and it fluctuates from run to run because whole minibatches are changed or spared
# together.
#
# ## Where do the new images lie?
#
# Each augmentation at $p = 1$, applied to test images, which no network was trained on, and seen
# with the features of the network at $p = 0$. First the Fréchet distance from the training images,
# beside that of the test images as they are; a mean over draws, and the range of these.

# %%
judge = study.judge(settings)
fresh = to_sample(images.test_images, images.test_labels, len(names))
draws = {"none": [images.test_images]}
for name in everyone:
    samples = [over_batches(name, fresh, s) for s in settings.grid["seed"]]
    draws[name] = [(sample.x * 255).round().byte() for sample in samples]
distances = pd.DataFrame(
    [{"augmentation": name, "value": judge.distance(x)} for name in draws for x in draws[name]]
)
table = distances.groupby("augmentation", sort=False).value.agg(["mean", "min", "max"])
charts.table(
    table.reset_index(),
    caption=f"Fréchet distance of the test images of {profile}, augmented at p = 1, from the training "
    f"images, in the features of {settings.network}: mean, least and most of "
    f"{len(settings.grid['seed'])} draws",
    formats=dict.fromkeys(("mean", "min", "max"), ".1f"),
)

# %% [markdown]
# Then a picture in two dimensions: the plane of the two largest principal components of the real
# images' features. Grey are 200 real images, coloured 200 augmented or generated ones.

# %% tags=["hide-input"]
network = study.train_or_load(settings, settings.point("none", 0, judge.seed), progress=False)
real = quality.features(network, images.test_images)
centre = real.mean(0)
plane = torch.linalg.svd(real - centre, full_matrices=False).Vh[:2].T


def seen(x):
    return ((quality.features(network, x[:200]) - centre) @ plane).tolist()


points = [
    {"panel": name, "images": kind, "first": a, "second": b}
    for name in everyone
    for kind, x in (("real", images.test_images), ("augmented", draws[name][0]))
    for a, b in seen(x)
]
charts.scatter(
    pd.DataFrame(points),
    x="first",
    y="second",
    colour="images",
    facet="panel",
    hover=("images",),
    x_title="first principal component",
    y_title="second principal component",
    format=".1f",
    description="Real images and those of each augmentation at p = 1 in the plane of the first two "
    "principal components of their features",
)

# %% [markdown]
# A distance of means and covariances cannot tell a new image from a copy, and it is measured by a
# network that has seen none of these augmentations. On digits, generated images are about as far
# from the training images as fresh real ones are, while the expert's transforms, which keep every
# label true, lead farthest. Whether near or far is better for a network, on clean images and under
# attack, is the next chapter's subject.
