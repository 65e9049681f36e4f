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
# %load_ext lib.parameters

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import charts, claims, recorded
from lib.profile import Profile

settings = Profile.load(profile)
studies, words = recorded.studies(settings, *claims.TABLES, "checks")
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
# interval. It **does not hold** if one of them lies on the other side with its whole interval.
# Otherwise it is **undecided**: the study is too small to tell. (A claim that something *can* happen
# needs one example only, and says below when it does not hold.) An augmentation stands for the mean
# over those $p > 0$ at which every augmentation has a value at every seed. Effects are differences
# at the same seed, so that what a seed does to all networks alike cancels. The sentences are about
# augmentations one at a time, so compositions enter none of them but the rank correlation, which
# is over all networks.

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
# ## The effects behind them

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
                effects[["label", "value", "low", "high", "seeds"]],
                caption=f"{name}: {claim.unit}, and its 95 % interval",
                formats=dict.fromkeys(("value", "low", "high"), charts.finite("+.3f")),
            )
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
    e = claims.effect(where["measure"], one - none)
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
# kind serves all seeds. Nor does it cover the choice of test images, which are the same for every seed, nor
# the choice of the data set, nor the settings of the attack, of which one decides. Intervals are not
# corrected for how many there are on this page: a refutation by one of several effects is more
# likely by chance than by one of one.
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
