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
# # Findings
#
# The talk ends with a handful of sentences, and the abstracts of the work behind it add others. Here
# each becomes a **claim**: a sentence with the measure that decides it, the effect with its 95 %
# interval, and a verdict. No verdict on this page is typed by hand; all are computed from the
# records whenever these change.

# %% tags=["parameters"]
profile = "digits"  # the study of the close-up; the page shows all that are recorded
augmentation = "classic"  # the network shown in the close-up: the expert's transforms,
p = 0.5  # at the middle of the dial,
seed = 0  # beside the mean over all seeds, at this one

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import records
from lib.book import charts
from lib.study import Profile, claims, claims_foundations, power, recorded

settings = Profile.load(profile)
STUDY = ["performance", "distances", "stress", "influence", "checks"]  # of every recorded study
READS = [
    "performance", "distances", "stress", "influence", "checks", "three-seven/three_seven",
    "transfer/transfer", "adversarial-training/adversarial_training",
    "online-learning/online_learning", "committee/committee",
]  # fmt: skip
studies, words = recorded.studies(settings, *STUDY)
Markdown(words)


# %% tags=["hide-input"]
def tables(study):
    """The tables that decide, on the study's grid."""
    return [claims.planned(study[name], study.profile.grid) for name in claims.TABLES]


found = {}
for study in studies:
    try:
        found[study.label] = claims.evaluate(*tables(study))
    except ValueError as error:
        if study.profile.name == settings.name:
            raise
        display(Markdown(f"No claim is decided on {study.label}: {error}."))

# %% [markdown]
# ## The claims
#
# Which of them do you expect to hold?

# %% tags=["hide-input"]
decided = next(iter(found.values()))
charts.table(claims.frame(decided)[["claim", "source"]], caption="The claims, and whose they are")

# %% [markdown]
# ## The verdicts
#
# A claim **holds** if every effect it names lies on the claimed side of zero with its whole
# interval. It **does not hold** if one of them lies on the other side, so far that several looks do not
# explain it. Otherwise it is **undecided**: the study is too small to tell.
# How often that goes wrong stands further down. (A claim that something *can* happen needs
# one example only, and says when it does not hold.) An augmentation stands for the mean over those
# $p > 0$ at which every augmentation has a value at every seed. Effects are differences at the same seed,
# so that what a seed does to all networks alike cancels. The sentences are about augmentations one at a
# time, so compositions enter none of them, nor does [adversarial training](09_adversarial_training), which is
# a yardstick beside them.

# %% tags=["hide-input"]
verdicts = claims.frame(decided)[["claim"]]
for name, decided in found.items():
    verdicts[name] = claims.frame(decided)["verdict"]
verdicts["source"] = claims.frame(decided)["source"]
charts.table(verdicts, caption=f"The verdicts on {'; and on '.join(found)}")

# %% tags=["hide-input"]
for name, decided in found.items():
    theirs = [claim.verdict for claim in decided if claim.source != claims.BOOK]
    counts = ", ".join(
        f"{word}: {theirs.count(word)}" for word in (claims.HOLDS, claims.FAILS, claims.OPEN)
    )
    display(Markdown(f"Of the source's {len(theirs)} sentences, on **{name}**: {counts}."))

# %% [markdown]
# A verdict never crosses from one data set to another, and digits are no photographs. Where a study has
# one seed, its intervals are infinite, so nothing is decided there.

# %% [markdown]
# ## The sentences of the foundations
#
# The [second part](08_adversarial_examples) follows another talk, on modelling adversarial training. Its
# sentences, and some of this book's, are decided in the same way by experiments of their own; the chapters show
# the effects.

# %% tags=["hide-input"]
foundations = [
    *claims_foundations.linear(records.read("three-seven", "three_seven")),
    *claims_foundations.surrogates(records.read("transfer", "transfer")),
    *claims_foundations.networks(records.read("adversarial-training", "adversarial_training")),
    *claims_foundations.streams(records.read("online-learning", "online_learning")),
    *claims_foundations.committees(records.read("committee", "committee")),
]
charts.table(claims.frame(foundations), caption="The foundations: sentences, verdicts, sources")

# %% [markdown]
# ## The effects behind the study's

# %% tags=["hide-input"]
for name, decided in found.items():
    for claim in decided:
        display(
            Markdown(
                f"**{claim.sentence}** On {name}: *{claim.verdict}*. It holds if: {claim.rule}. "
                f"(Measured in [chapter {claim.chapter[1]}]({claim.chapter}.html).)"
            )
        )
        if not claim.effects:
            display(Markdown("No augmentation meets the condition: there is nothing to decide."))
            continue
        effects = claims.effects_frame(claim)
        description = f"Effects and 95 % intervals: {name}. {claim.sentence}"
        display(charts.intervals(effects, x=claim.unit, description=description))
        display(
            charts.table(
                effects[["label", "value", "low", "high", "p", "seeds"]],
                caption=f"{name}: {claim.unit}, its 95 % interval, and the level at which that is decided",
                formats=dict.fromkeys(("value", "low", "high"), charts.finite("+.3f"))
                | {"p": ".3f"},
            )
        )

# %% [markdown]
# ## How a verdict is made
#
# **Every effect needs its interval.** It is the t-interval of its mean over seeds at 95 %. But three seeds
# may agree by chance, and the test images set a limit of their own: if a difference is worth $b$ images, and
# not one image speaks against it, then McNemar's exact test on these images gives $2 / 2^b$. So an interval is
# never narrower than it takes for that: at 5 % six images decide, five do not.
#
# **Several effects, one verdict.** That all lie on the claimed side needs no correction: every one has to
# be shown. That *one* of $m$ lies on the other side is another matter, since one of many will by chance.
# With $p_{(1)} \le p_{(2)} \le \dots$ for the effects on the other side, a claim does not hold if
# $p_{(i)} \le 5\,\% \cdot i/m$ for some $i$: Simes' test, which costs little where effects go together,
# as differences from one augmentation do.
#
# **One example.** A claim that some augmentation does something tries all of them: each is judged at
# $5\,\%/m$. So is the question which augmentations are less robust, whose stress is then read.
#
# **Stress and risk.** Here an augmentation is what counts, not a seed. The curve of stress of each
# augmentation meets the curve of risk of another, in every way there is: a {term}`pairing`. The claim holds
# if at most 5 % of the pairings agree as well as the true one, which counts itself. Of four augmentations
# only the best of 24 will do; of three nothing would. The pairings are too few to refute it as well, so it
# never is.
#
# What is that worth? The engine makes up studies of the shape of the recorded ones, whose truth it knows.
# Where there is nothing to find, a verdict should be rare:

# %% tags=["hide-input"]
charts.table(
    power.sizes(),
    caption="Made-up studies with nothing to find: share of 2,000 in which each claim is decided all the same, "
    "the worst of several ways to have nothing",
    formats={f"{name}, {k} seeds": ".1%" for name in power.SHAPES for k in (3, 5)},
)

# %% [markdown]
# And where there is something, it should be found. An effect's size is told in standard deviations of a
# paired difference from seed to seed. The claim holds where all effects have that size, and does not hold
# where one of them has it on the other side:

# %% tags=["hide-input"]
charts.table(
    power.powers((2, 4, 8)),
    caption="Made-up studies with effects of a stated size: share of 2,000 with the right verdict",
    formats={"holds": ".0%", "does not hold": ".0%"},
)

# %% [markdown]
# Three seeds find only what is several times larger than the noise. Five find twice the noise in most
# studies. The claim on stress and risk is found less often, even where the two follow the same curves but
# for noise and for a rise with $p$ that proves nothing:

# %% tags=["hide-input"]
charts.table(
    power.followed(),
    caption="Made-up studies in which stress follows risk: share of 2,000 in which that is found",
    formats={"holds": ".0%"},
)

# %% [markdown]
# ## One setting, close up
#
# Averaging over $p$ can hide as much as it shows. Here is one augmentation at one $p$, minus no
# augmentation at the same seed. One setting that meets the conditions of a claim by itself is not
# enough: of many that one may look at, some will by chance.

# %% tags=["hide-input"]
(own,) = [study for study in studies if study.profile.name == settings.name]
performance = tables(own)[0]
rows = []
for where in (
    performance[["measure", "attack", "eps", "steps"]].drop_duplicates().to_dict("records")
):
    one = claims.by_seed(performance, augmentation=augmentation, p=p, **where)
    none = claims.by_seed(performance, augmentation="none", **where)
    e = claims.effect(where["measure"], one - none, claims.grain(performance))
    rows.append(
        {
            "measure": e.label,
            "eps": where["eps"],
            "iterations": int(where["steps"]),
            "difference": e.value,
            "low": e.low,
            "high": e.high,
            f"seed {seed}": (one - none).get(seed, float("nan")),
        }
    )
charts.table(
    pd.DataFrame(rows),
    caption=f"{augmentation} at p = {p:g} minus no augmentation: {own.label}",
    formats=dict.fromkeys(("difference", "low", "high", f"seed {seed}"), charts.finite("+.2%")),
)

# %% [markdown]
# ## What these verdicts are worth
#
# **Scale.** The talk trained ResNet-50 on CIFAR-10. A verdict is about the data, the network and the
# epochs that its study names. The one that runs on every computer trains a small network on small digits.
# Where digits contradict the talk, they say that its sentence is no law, not that it is wrong about
# photographs. A narrow network that was trained for a few epochs says as little about a wide one that was
# trained for many.
#
# **One architecture.** Each profile has one network and one recipe. Another may answer otherwise.
#
# **What an interval covers.** It covers the randomness of training: initialisation, order,
# augmentation. It does not cover the randomness of a generator's own training: one generator of each
# kind serves all seeds. It covers the choice of test images, which are the same for every seed, at the
# least that it can matter: networks that differ by ten images in a thousand may err on a hundred different
# ones, and how many that are is not recorded. It does not cover the choice of the data set, nor the
# settings of the attack, of which one decides. Each verdict is wrong in 5 % of studies at most where
# nothing is true; of all the verdicts on this page some may well be.
#
# **What is no claim.** That augmented twins weigh more than their originals beyond what the control sees
# would be a claim about training, but its answer is nearly forced: the control has memorised the very
# originals. [Chapter 5](05_influence) shows the difference as an observation.
#
# **Stress knows a radius.** In many dimensions a random direction hardly approaches a boundary, so
# the verdicts read stress at the smallest recorded radius at which a tenth of the neighbours of the networks
# without augmentation get another label, or else at the largest. Chapter 4 shows its correlation with risk at
# every radius.
#
# **The attack is a lower bound.** Projected gradient descent finds adversarial examples; that it
# finds none proves nothing. [Chapter 3](03_performance) looks for the
# signs of a weak attack at every augmentation and $p$ of one seed, and searches for the decision boundary
# of every network. What they found beyond the attack that decides:

# %% tags=["hide-input"]
for study in studies:
    performance, distances, *_ = tables(study)
    decisive = performance[
        (performance[list(claims.ATTACK)] == pd.Series(claims.ATTACK)).all(axis=1)
    ]
    within = distances[
        (distances.measure == "risk within") & (distances.eps == claims.ATTACK["eps"])
    ]
    both = decisive.merge(within, on=["augmentation", "p", "seed"], suffixes=("", "_search"))
    missed = both.value_search - both.value
    checks = study["checks"]
    warned = checks[checks.warning.astype(bool)]
    pairs = zip(warned.measure, warned.by, strict=True)
    words = "; ".join(sorted({f"{measure}, {by}" for measure, by in pairs}))
    display(
        Markdown(
            f"On {study.label} the search loses {missed.mean():.2%} of the test images more, over all "
            f"networks, and {missed.max():.1%} on the one where most were missed. Checks that warn: "
            f"{len(warned)} of {len(checks)}{f' ({words})' if words else ''}."
        )
    )

# %% [markdown]
# **Influence is a linear prediction** about the last layer of a network, around parameters that
# stochastic gradient descent left near, not at, a minimum.
