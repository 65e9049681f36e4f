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
# # Augmentation as a random function
#
# Mirror a photograph, blend two digits, draw a face from a generator: three things that people
# call *data augmentation*, and that look nothing alike. To compare them fairly we need one
# definition that covers all three, and that tells us what we get when we apply one after another.
# The talk this book follows {cite}`eghbalzadeh2020` proposes one. This chapter states it, turns it
# into an object that we can call and compose, and lets a machine decide it where that can be done
# exactly. It finds that the lemma on composition needs more conditions than are printed, and that
# mixup, by the letter, is not covered.

# %% tags=["parameters"]
profile = "digits"  # a data set that comes with scikit-learn: nothing to download
augmentation = "classic"  # the composition of several transforms: there is something to take apart
p = 0.25  # a coin for each of several transforms: at higher p hardly an example escapes them all
seed = 0  # every draw below comes from this number

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import itertools
import random
from fractions import Fraction

import pandas as pd
import torch

from lib import study
from lib.augmentation import Identity, changed, drawn_in_batches, law
from lib.book import charts
from lib.seeds import generator
from lib.study import Profile
from lib.training import to_sample

settings = Profile.load(profile)
images = study.dataset(settings)
S = to_sample(images.train_images[:8], images.train_labels[:8], len(images.classes))

# %% [markdown]
# ## The definition
#
# Let $\mathcal X$ be the images, $\mathcal Y$ the labels, $P_X$ the distribution of images and
# $l : \mathcal X \to \mathcal Y$ the true labelling. A *sample* of size $s$ is
#
# $$S = \big((x_1, l(x_1)), \dots, (x_s, l(x_s))\big)$$
#
# with $x_i$ drawn independently from $P_X$. Probabilities below are over $S$ and over what the
# augmentation draws.
#
# ````{prf:definition} Augmentation
# :label: augmentation
#
# A random function $A$ that maps a sample $S$ to a vector of *independent* random vectors on
# $\mathcal X \times \mathcal Y$,
#
# $$A(S) = (X_1 \times Y_1, \dots, X_r \times Y_r),$$
#
# pairs of an image and a label, is an **augmentation** if the marginal distribution of each $X_i$
# *dominates* that of the data: for every measurable set $D$,
#
# $$P_X(D) > 0 \quad\Longrightarrow\quad P_{X_i}(D) > 0 .$$
# ````
#
# Domination says that an augmentation forgets nothing: whatever the data can show, it can still
# show. It may add new images, but it must not make an old one impossible. In general, a law dominates
# another if every set that has positive probability under the other has it under the one.
# *Independence* says that the $r$ new examples are as good as $r$ separate draws.
#
# An *augmented sample* is one observation of $A(S)$. That is what the code computes: a `Sample`
# holds images `x` and rows of class probabilities `y`, an `Augmentation` is called with a sample
# and a source of randomness, and nothing else decides what comes out.

# %%
A = study.augmentation(settings, augmentation, p)
drawn = A(S, generator(seed, "a first draw"))
again = A(S, generator(seed, "a second draw"))

charts.pictures(
    torch.cat([S.x, drawn.x, again.x]).numpy(),
    rows=["S", "A(S), one draw", "A(S), another"],
    columns=len(S),
    description=f"Eight training images and two draws of {augmentation} augmentation at p = {p}",
)

# %% [markdown]
# Rows two and three are two observations of the same random vector. An example whose coins all fell
# tails comes back as it was, bit for bit. One whose coin fell heads may do so, too, if the transform
# draws no change. From here on, an example is **augmented** if its image or its label differs from
# before.

# %% tags=["hide-input"]
charts.table(
    pd.DataFrame(
        [
            {"draw": name, "augmented": int(changed(S, sample).sum()), "of": len(S)}
            for name, sample in {"one": drawn, "another": again}.items()
        ]
    ),
    caption="How many of the eight examples each draw changed",
)

# %% [markdown]
# ## The definition by machine
#
# If there are finitely many images, the law of $A(S)$ is a table of probabilities, and both
# conditions can be decided exactly. `lib/augmentation/law.py` does it in fractions, without rounding: `Law` is such
# a table, a random function takes a sample to a `Law`, and `law.decide` says what holds.
#
# The smallest world that shows something has two images, 0 and 1, each with its true label,
# equally likely. An example is a pair (image, label), and a sample has two of them. The images may
# leave this world: grey is ½.

# %%
half = Fraction(1, 2)
Q = law.uniform([(0, 0), (1, 1)])  # the law of one (image, true label)


def each(function):
    """A function of (image, label), applied to every example of a sample."""
    return law.certainly(lambda sample: tuple(function(*example) for example in sample))


grey = each(lambda x, y: (half, y))
small = {
    "the identity": each(lambda x, y: (x, y)),
    "paint every image grey": grey,
    "paint grey with probability ½": law.with_probability(grey, half, per="example"),
    "never show image 1": each(lambda x, y: (0, y)),
    "copy the first example": law.certainly(lambda sample: (sample[0], sample[0])),
    "exchange the images, keep the labels": each(lambda x, y: (1 - x, y)),
}

# %% tags=["hide-input"]
yes = {True: "yes", False: "no"}.get


def verdicts(functions, s=2):
    """What is decided of each named function, as a table."""
    return pd.DataFrame(
        [{"A": name} | law.decide(function, Q, s) for name, function in functions.items()]
    )


columns = ["independent", "dominates", "augmentation"]
charts.table(
    verdicts(small)[["A", *columns]],
    caption="Both conditions of the definition, decided exactly for samples of two examples",
    formats=dict.fromkeys(columns, yes),
)

# %% [markdown]
# A constant map is no augmentation where there is more than one image, and neither is one that loses a
# single image or one that hands out copies. The other lines are a warning. A coin for each example
# before the constant map is enough to make it an augmentation: at $p < 1$ every image may stay as it is, and domination asks for no more. And the last
# map makes *every label wrong*, at $p = 1$, and satisfies the definition: domination is about images
# alone. The definition says what is not lost. It does not say that what comes out is true or
# useful; that is measured, from the third chapter on.
#
# ## Composition
#
# Augmentations are applied one after another: first a shift, then a rotation. We write
# $(A \circ B)(S) = A(B(S))$, and `A @ B` in code. The identity is neutral, and composition is
# associative, so that we need no brackets. (Every factor draws anew, so `A` may appear twice.)

# %%
mixup = study.augmentation(settings, "mixup")


def same(first, second):
    """Whether two augmentations give the same sample from the same random numbers."""
    one, two = (f(S, generator(seed, "comparison")) for f in (first, second))
    return torch.equal(one.x, two.x) and torch.equal(one.y, two.y)


charts.table(
    pd.DataFrame(
        [
            {"law": "(A @ B) @ A = A @ (B @ A)", "true": same((A @ mixup) @ A, A @ (mixup @ A))},
            {"law": "I @ A = A", "true": same(Identity() @ A, A)},
            {"law": "A @ I = A", "true": same(A @ Identity(), A)},
        ]
    ),
    caption="A is the augmentation chosen above, B is mixup, I the identity",
)

# %% [markdown]
# Is the composition of two augmentations an augmentation again? The talk prints this lemma:
#
# ````{prf:lemma} as printed
# :label: lemma-printed
#
# If $A$ and $B$ are augmentations, then $A \circ B$ is an augmentation.
# ````
#
# The definition asks for two things, and neither is automatic. $A$ promises domination and
# independent outputs for a sample of the data. $B(S)$ is a sample of another law, for which $A$ has
# promised nothing.
#
# Let us look for a counterexample among two bits: two images, all of one class, so that labels play no
# part, and a sample of two fair ones. For $A$ we try every map without randomness; there are
# $4^4 = 256$. For $B$ we try sources of noise that throw the sample away and return two independent
# bits, each 1 with probability ¼, ½ or ¾; there are nine.

# %%
fair = law.uniform([0, 1])
two = list(itertools.product([0, 1], repeat=2))
maps = {
    values: law.certainly(dict(zip(two, values, strict=True)).__getitem__)
    for values in itertools.product(two, repeat=4)
}
quarters = [Fraction(n, 4) for n in (1, 2, 3)]


def noise(a, b):
    out = law.product([law.Law({0: 1 - q, 1: q}) for q in (a, b)])
    return lambda sample: out


noises = {ab: noise(*ab) for ab in itertools.product(quarters, repeat=2)}

# %% [markdown]
# One may read "independent" in two ways: over $S$ and the draws of $A$ together, as we do, or over
# the draws of $A$ alone, *given $S$*. We search under both.


# %%


def search(independence):
    """Pairs of augmentations A, B in these families, and those whose composition is none."""

    def holds(function):
        found = law.decide(function, fair, 2)
        return found[independence] and found["dominates"]

    good = [[name for name in family if holds(family[name])] for family in (maps, noises)]
    tried = list(itertools.product(*good))
    return tried, [(a, b) for a, b in tried if not holds(law.compose(maps[a], noises[b]))]


# %% tags=["hide-input"]
found = {name: search(name) for name in ("independent", "independent given S")}
charts.table(
    pd.DataFrame(
        [
            {
                "independence": "over S and the draws" if name == "independent" else "given S",
                "maps A": len({a for a, _ in tried}),
                "noises B": len({b for _, b in tried}),
                "pairs": len(tried),
                "fail": len(broken),
            }
            for name, (tried, broken) in found.items()
        ]
    ),
    caption="The printed lemma on two bits, under either reading of independence: how many maps A and "
    "noises B are augmentations, their pairs, and the pairs whose composition is none",
)

# %% [markdown]
# The lemma fails under either reading, and not in a corner. Given $S$, a map without randomness has
# independent outputs whatever it does, so that $A(s_1, s_2) = (s_1, s_1)$ passes, and makes copies
# of one noisy bit. Under our reading the maps that pass are the $4! = 24$ permutations of the four
# samples. Eight of them only exchange the bits or turn them over. The other sixteen mix them, and each
# fails with six of the nine noises. Here is the first pair that the search met:

# %%
a, b = found["independent"][1][0]
A_bits, B_bits = maps[a], noises[b]
composed = {
    "A(S)": A_bits,
    "B(S)": B_bits,
    "A(B(S))": law.compose(A_bits, B_bits),
    "B(A(S))": law.compose(B_bits, A_bits),
}

# %% tags=["hide-input"]
charts.table(
    pd.DataFrame(
        [
            {
                "s1 s2": f"{x} {y}",
                "A(s1, s2)": "{} {}".format(*out),
                "probability as B(S)": str(B_bits(None)[x, y]),
            }
            for (x, y), out in zip(two, a, strict=True)
        ]
    ),
    caption="The first pair of augmentations whose composition is none",
)

# %% [markdown]
# The first bit stays. The second is turned if the first is 1: it is replaced by their exclusive or.
#
# ````{prf:example} Two bits
# :label: two-bits
#
# $B$ throws its sample away and returns two independent bits, each $1$ with probability
# $\tfrac14$. $A$ keeps the first bit and replaces the second by their exclusive or:
# $A(s_1, s_2) = (s_1, s_1 \oplus s_2)$. Of a sample $S$ of two fair bits, both are augmentations:
# the four values of $A(S)$ are equally likely, so its components are two independent fair bits.
# ````

# %% tags=["hide-input"]
charts.table(
    pd.DataFrame(
        [
            {
                "sample": name,
                **{"{} {}".format(*out): str(law.push(f, law.power(fair, 2))[out]) for out in two},
                "independent": law.decide(f, fair, 2)["independent"],
            }
            for name, f in composed.items()
        ]
    ),
    caption="The probability of each pair of bits, in exact fractions",
    formats={"independent": yes},
)

# %% [markdown]
# $A(S)$ and $B(S)$ have independent components, $A(B(S))$ has not: {prf:ref}`lemma-printed` is
# false. Order matters, too: $B$ forgets what $A$ did, so $B(A(S))$ is as good as $B(S)$.
#
# ## What is true
#
# What survives of the lemma covers, at $p < 1$, all compositions of augmentations that act example by
# example. It comes in two halves, and neither assumes that $A$ and $B$ are augmentations.
#
# ````{prf:theorem} Composition
# :label: composition
#
# Let $A$ and $B$ be random functions that draw independently of each other and of $S$, where $B$
# maps $S$ to $r$ pairs and $A$ is defined for samples of size $r$. Let $Q$ be the law of
# $(x, l(x))$ for $x$ from $P_X$.
#
# 1. *Domination.* If each image of $A$ dominates $P_X$ on a sample of $r$ independent draws of $Q$,
#    and the law of $B(S)$ dominates the law $Q^r$ of such a sample, then each image of $A(B(S))$
#    dominates $P_X$. The law of $B(S)$ does so if its output pairs are independent and each dominates
#    $Q$.
# 2. *Independence given the sample.* If $A$ acts example by example,
#
#    $$A(z) = (A_1(z_1), \dots, A_r(z_r))$$
#
#    with independent random functions $A_i$, and the outputs of $B$ are independent given $S$, then
#    the outputs of $A \circ B$ are independent given $S$.
# ````
#
# ````{prf:proof}
# *1.* Let $P_X(D) > 0$, and let $Z$ be the set of samples $z$ for which $A(z)$ puts its $i$-th image into
# $D$ with positive probability. The $i$-th image of $A$ on a sample of law $Q^r$ lies in $D$ with
# positive probability, so $Q^r(Z) > 0$. Hence $B(S)$ lies in $Z$ with positive probability, too. As
# $A$ draws independently of $B(S)$, the $i$-th image of $A(B(S))$ lies in $D$ with positive
# probability. As for the last sentence: if each factor of a product of laws dominates $Q$, the
# product dominates $Q^r$.
#
# *2.* Given $S$, the pairs $(A_i, B_i(S))$ are independent of one another, and the $i$-th output
# $A_i(B_i(S))$ is a function of the $i$-th pair alone.
# ````
#
# ````{prf:corollary} Example by example
# :label: example-by-example
#
# If $A$ and $B$ both act example by example, each image of $A(S)$ dominates $P_X$ and each pair of
# $B(S)$ dominates $Q$, then $A \circ B$ is an augmentation.
# ````
#
# ````{prf:proof}
# The $i$-th output of $B$, and that of $A \circ B$, depends on $s_i$ and on draws of its own, and the
# $s_i$ are independent. So the outputs of both are independent, and {prf:ref}`composition` gives the
# domination.
# ````
#
# It is not enough in the first half that the *images* of $B$ dominate. Let $B$ keep every image and give
# it a wrong label, and let $A$ keep an image whose label is true and paint every other one grey. Both
# are augmentations, and $A(B(S))$ is all grey:

# %%
wrong = each(lambda x, y: (x, 1 - y))
strict = each(lambda x, y: (x if x == y else half, y))
labels = {"B: wrong labels": wrong, "A: grey unless true": strict}
labels["A after B"] = law.compose(strict, wrong)

# %% tags=["hide-input"]
charts.table(
    verdicts(labels)[["A", *columns]].rename(columns={"A": "random function"}),
    caption="The images of B dominate, its pairs do not",
    formats=dict.fromkeys(columns, yes),
)

# %% [markdown]
# A proof can be wrong as well as a lemma, so the theorem is put to the same test. We draw random
# instances: two images with random frequencies, and random functions whose tables are filled with
# random laws. Some act example by example, some have outputs that are independent given the sample,
# some are arbitrary, and a coin for each example or for the batch may stand before $B$. Which
# hypotheses hold is left to chance, and decided in each case in exact fractions.

# %%
rng = random.Random(seed)
pairs = list(itertools.product([0, 1], repeat=2))  # (image, label), the label true or wrong
samples = list(itertools.product(pairs, repeat=2))


def random_law(outcomes, most=2):
    """A law on one to `most` of the outcomes."""
    return law.uniform(rng.choices(rng.sample(outcomes, rng.randint(1, most)), k=rng.randint(1, 4)))


def by_example():
    return law.example_by_example(
        [{pair: random_law(pairs) for pair in pairs}.__getitem__ for _ in range(2)]
    )


def by_sample():
    return {z: law.product([random_law(pairs), random_law(pairs)]) for z in samples}.__getitem__


def arbitrary():
    return {z: random_law(samples, most=4) for z in samples}.__getitem__


# %%
def instance():
    """One random instance: which hypotheses hold, and which conclusions."""
    share = Fraction(rng.randint(1, 3), 4)
    Q = law.Law({(0, 0): share, (1, 1): 1 - share})
    kinds = (
        rng.choice([by_example, arbitrary]),
        rng.choice([by_example, by_example, by_sample, arbitrary]),
    )
    A, B = (kind() for kind in kinds)
    coin = rng.choice([None, "example", "batch"])
    B = law.with_probability(B, half, per=coin) if coin else B
    of_A, of_B, of_both = (law.decide(f, Q, 2) for f in (A, B, law.compose(A, B)))
    S = law.power(Q, 2)
    BS = law.push(B, S)
    return {
        "A by example": kinds[0] is by_example,
        "both by example": kinds == (by_example, by_example) and coin != "batch",
        "A dominates": of_A["dominates"],
        "B independent": of_B["independent"],
        "B independent given S": of_B["independent given S"],
        "each pair of B dominates": all(law.dominates(pair, Q) for pair in law.marginals(BS)),
        "B(S) dominates": law.dominates(BS, S),
        **{f"then {name}": holds for name, holds in of_both.items()},
    }


instances = pd.DataFrame([instance() for _ in range(2000)])

# %% [markdown]
# For each statement the table counts the instances that satisfy all of its hypotheses, and those
# that satisfy all but one.

# %% tags=["hide-input"]
statements = {
    "1. domination": (["A dominates", "B(S) dominates"], "then dominates"),
    "1. its last sentence": (["B independent", "each pair of B dominates"], "B(S) dominates"),
    "2. independence": (["A by example", "B independent given S"], "then independent given S"),
    "corollary": (
        ["both by example", "A dominates", "each pair of B dominates"],
        "then augmentation",
    ),
}
rows = []
for statement, (hypotheses, conclusion) in statements.items():
    for dropped in [None, *hypotheses]:
        met = instances[[name for name in hypotheses if name != dropped]].all(axis=1)
        met &= ~instances[dropped] if dropped else True
        held = int(instances[conclusion][met].sum())
        rows.append(
            {
                "statement": statement,
                "hypotheses": f"all but “{dropped}”" if dropped else "all",
                "instances": int(met.sum()),
                "conclusion holds": held,
                "fails": int(met.sum()) - held,
            }
        )
charts.table(
    pd.DataFrame(rows),
    caption=f"The theorem and its corollary on {len(instances)} random instances",
)

# %% [markdown]
# Where all hypotheses hold, the conclusion never fails. Where one is missing it fails in many
# instances: none of those listed can simply be dropped, and the check is able to find a fault.
# ("Both by example" is dropped for $A$ and $B$ at once.)
#
# ## Are they augmentations?
#
# **Classic** transforms act example by example, each on independent draws, so their outputs are
# independent. As long as an example may be left alone, that is, for $p < 1$, its law contains a share
# of $Q$ and dominates it, and {prf:ref}`example-by-example` covers their compositions. At $p = 1$
# domination is a question about the transform: a rotation by an angle from a continuous range returns
# an image of whole grey levels, other than a blank one, with probability zero.
#
# **Generators** that draw an image for each example act example by example as well, given the trained
# generator and for samples that it was not trained on. At $p = 1$ those of this book do not dominate,
# for the same reason: their pixels come from a continuous range.
#
# **Mixup** blends the examples of a minibatch with *one* weight, *one* permutation and *one* coin. We
# can also give each example a coin, a weight and a partner of its own, drawn with replacement. The
# machine decides about both, for samples of three and a weight that is ¼, ½ or ¾:

# %% tags=["hide-input"]
weight = law.uniform(quarters)
blends = {
    f"{per}, p = {q}": law.with_probability(law.mixup(weight, per), q, per)
    for per in ("batch", "example")
    for q in (half, Fraction(1))
}
frame = verdicts(blends, s=3).rename(columns={"A": "draws per"})
charts.table(
    frame,
    caption="Mixup with one draw for the batch and with draws for each example",
    formats=dict.fromkeys(frame.columns[1:], yes),
)

# %% [markdown]
# *Dominates: always.* At $p = \frac12$ the coin may leave an example alone. At $p = 1$ it may still be
# its own partner, and then comes back as it was. This does not depend on the world being small: a
# random permutation leaves a given place fixed with probability $1/s$.
#
# *Independent given $S$: per example only.* One coin, one weight and one permutation tie the outputs of a
# batch together: to see that the first example was blended is to know that the others probably were, and
# by how much. No size of the batch undoes this. With draws of its own, each output is a random
# function of $S$, and these functions are independent.
#
# *Independent: never.* With draws per example, too, two outputs may be blends of the same example of
# $S$, and are then alike. By the letter of the definition, mixup is no augmentation in either
# form. For any *two* outputs of the second form this is little: they have an example in common with
# probability at most $(2p + p^2)/s$, from one being the other's partner or both having the same
# one, which at $p = \frac12$ is 1 % for a batch of 128 and 4 % for one of 32. Given coins and partners
# without a common example the two are independent, and these draws are independent of each other, so
# the bound holds for the distance in total variation between the law of the pair and the product of
# its two laws. It says nothing of all $s$ outputs together: in a batch, some pair nearly always
# shares an example.
#
# The study applies mixup as its authors do, per batch, and calls it an augmentation as everybody
# does. In its composition `classic+mixup`, mixup is the outer function $A$. For $p < 1$ the classic
# transforms may leave every example alone, so the law of $B(S)$ dominates $Q^r$, and mixup's images
# dominate: by {prf:ref}`composition` no image is lost. At $p = 1$ the rotation has lost them before
# mixup sees them. And the outputs are dependent, given $S$ or not.
#
# ## With probability p
#
# The study turns one dial: an augmentation is applied **with probability p**. A composition hands
# $p$ to each of its factors, and every factor tosses a coin of its own. So an example escapes a
# composition of three factors with probability at least $(1-p)^3$, since a transform may also draw "no
# change". At $p = 0$ we have the identity, at $p = 1$ the augmentation itself. Over the training set,
# minibatch by minibatch as in training:

# %%
some = to_sample(images.train_images[:1000], images.train_labels[:1000], len(images.classes))


def over_batches(q):
    A, stream = study.augmentation(settings, augmentation, q), generator(seed, "share", q)
    return drawn_in_batches(A, some, stream, settings.training["batch_size"])


charts.table(
    pd.DataFrame(
        [
            {
                "p": q,
                "augmented": changed(some, over_batches(q)).float().mean().item(),
            }
            for q in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    ),
    caption=f"Share of {len(some)} training examples that {augmentation} changed",
    formats={"p": ".2f", "augmented": ".1%"},
)

# %% [markdown]
# What each of the augmentations looks like, and what it does to labels, is the next chapter's
# subject.
