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
# The talk ends with a handful of sentences. Here each becomes a **claim**: a sentence with the
# measure that decides it, the effect with its 95 % interval, and a verdict. No verdict on this page
# is typed by hand; all are computed from the records whenever these change.

# %% tags=["parameters"]
profile = "digits"  # the study that this page is about; others that are recorded follow below it
augmentation = "classic"  # whose effects are listed setting by setting
p = 0.5  # the setting shown in the close-up
seed = 0  # the seed shown in the close-up

# %%
import pandas as pd
from IPython.display import Markdown, display

from lib import charts, claims, records

tables = {
    name: [records.read(name, table) for table in ("performance", "stress", "influence")]
    for name in sorted({profile, *records.profiles()}, key=lambda name: name != profile)
}
found = {name: claims.evaluate(*parts) for name, parts in tables.items()}

# %% [markdown]
# ## The verdicts
#
# A claim **holds** if every effect it names lies on the claimed side of zero with its whole
# interval. It **does not hold** if one of them lies on the other side with its whole interval.
# Otherwise it is **undecided**: the study is too small to tell. An augmentation stands for the mean
# over its $p > 0$. Effects are differences at the same seed, so that what a seed does to all
# networks alike cancels.

# %% tags=["hide-input"]
for name, decided in found.items():
    size = tables[name][0]
    seeds, networks = size.seed.nunique(), len(size.drop_duplicates(["augmentation", "p", "seed"]))
    display(
        charts.table(
            claims.frame(decided),
            caption=f"Profile {name}: {size.dataset.iloc[0]}, {size.network.iloc[0]}, "
            f"{networks} networks, {seeds} seeds",
        )
    )

# %% [markdown]
# ## The effects behind them

# %% tags=["hide-input"]
for name, decided in found.items():
    for claim in decided:
        display(
            Markdown(
                f"**{claim.sentence}** On {name}: *{claim.verdict}*. It holds if: {claim.rule}."
            )
        )
        if claim.effects:
            display(
                charts.intervals(
                    claims.effects_frame(claim),
                    description=f"Effects and 95 % intervals on {name} for: {claim.sentence}",
                )
            )
        else:
            display(Markdown("No augmentation meets the condition, so there is nothing to decide."))

# %% [markdown]
# ## One setting, close up
#
# Averaging over $p$ can hide as much as it shows. Here is one augmentation at each $p$, minus the
# network without augmentation of the same seed.

# %% tags=["hide-input"]
performance = tables[profile][0]
rows = []
for q in sorted(set(performance.p) - {0}):
    for word, where in {"clean error": {"attack": "none"}, "risk": claims.ATTACK}.items():
        one = claims.by_seed(performance, augmentation=augmentation, p=q, **where)
        none = claims.by_seed(performance, augmentation="none", **where)
        e = claims.effect(word, one - none)
        rows.append(
            {
                "p": q,
                "measure": word,
                "difference": e.value,
                "low": e.low,
                "high": e.high,
                f"at seed {seed}": (one - none).get(seed),
            }
        )
charts.table(
    pd.DataFrame(rows),
    caption=f"{augmentation} minus no augmentation on {profile}; risk is the {claims.RISK}",
    formats={
        "p": ".2f",
        "difference": "+.2%",
        "low": "+.2%",
        "high": "+.2%",
        f"at seed {seed}": "+.2%",
    },
)

# %% [markdown]
# ## What these verdicts are worth
#
# **Scale.** The talk trained ResNet-50 on CIFAR-10. The study that runs on every computer trains a
# network of some 26,000 parameters on digits of eight by eight pixels. Digits are not CIFAR-10:
# where they contradict the talk, they say that its sentence is no law, not that it is wrong about
# photographs. A verdict never crosses from one data set to another.
#
# **One architecture.** Each profile has one network and one recipe. Another may answer otherwise.
#
# **What an interval covers.** It covers the randomness of training: initialisation, order,
# augmentation. It does not cover the choice of test images, which are the same for every seed, nor
# the choice of the data set, nor the settings of the attack. Intervals are not corrected for how
# many there are on this page.
#
# **The attack is a lower bound.** Projected gradient descent finds adversarial examples; that it
# finds none proves nothing. A risk shown here may be too low.
#
# **Influence is a linear prediction** about the last layer of a network, around parameters that
# stochastic gradient descent left near, not at, a minimum.
