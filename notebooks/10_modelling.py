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
# # A model of adversarial training that can be solved
#
# Adversarial training makes some networks robust and ruins others. On real images one can try and look.
# Here is a model so simple that what training does is the solution of two differential equations: two
# clouds of points, a linear network, one pass over a stream of examples. It shows a gain, a price, and a
# collapse, and it says where each begins.
#
# ```{admonition} This chapter
# **You will know** how training in many dimensions becomes two equations, when adversarial training
# helps in this model, and why it can end with a classifier that gives one label to all.
# **You need** the normal distribution and what a differential equation says.
# **It takes** 30 minutes to read and a few seconds to run.
# <a href="10_modelling.slides.html">Slides</a>.
# ```

# %% tags=["parameters"]
prior = 0.7  # share of the label +1: the talk's second scenario; its first, .5, is shown beside it
eps = 1.0  # of the attack in training, the talk's: it makes the centres of the clouds meet
alpha = 100  # learning time, examples per dimension: by then the talk's curves have settled
n = 1000  # dimensions of the stream that is drawn here, the talk's
seed = 0  # of that stream

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from lib import records
from lib.book import charts, foundations
from lib.online_learning import (
    Clusters,
    Rule,
    adversarial_error,
    best_error,
    order_parameters,
    simulate,
    symmetry_breaking,
)
from lib.seeds import generator
from lib.study import claims_foundations as claims

READS = [
    "online-learning/online_learning",
    "collapse/collapse",
    "symmetry/symmetry",
    "committee/committee",
]
streams = records.read("online-learning", "online_learning")
times = np.linspace(0, alpha, 51)
rules = {"standard": Rule(), "adversarial": Rule(eps=eps)}
priors = sorted({0.5, prior})


def learning_curves(read, kinds=("error", "adversarial error")):
    """A row for each prior, rule, error and time, of the equations' solution."""
    for p in priors:
        for name, rule in rules.items():
            R, b = order_parameters(Clusters(prior=p), rule, times)
            for kind, radius in zip(kinds, (0, eps), strict=True):
                values = adversarial_error(Clusters(prior=p), R, b, radius)
                for t, value in zip(times, values, strict=True):
                    yield {"training": name, "seed": 0, "alpha": t, "value": value,
                           "panel": f"prior {p:g}, {kind}"}  # fmt: skip


curves = pd.DataFrame(learning_curves(order_parameters))
charts.against(
    curves,
    "alpha",
    line="training",
    facet="panel",
    x_title="learning time alpha",
    y="share of examples that are wrong",
    format=".0%",
    description=f"Error and adversarial error at eps {eps:g} against learning time, of standard and "
    "adversarial training, for classes of one size and of two: solutions of the equations",
)

# %% [markdown]
# With classes of one size adversarial training lowers both errors. With classes of two sizes it lowers
# one and raises the other. The rest of the chapter says why.
#
# ## The model
#
# **The data.** Examples $\xi \in \mathbb R^N$ come in a stream. With probability $p$ the label is
# $\tau = 1$ and $\xi$ is drawn from a normal law around $+\tfrac\rho2 B$, else $\tau = -1$ and it is
# drawn around $-\tfrac\rho2 B$. $B$ is a direction of length 1, and the variance in every direction is $v_1$ or $v_2$. In
# one thousand dimensions these clouds are not to be seen: an example is about 32 long, its part along $B$
# about 1.
#
# **The network.** $\sigma(\xi) = \mathrm{erf}(x)$ with the preactivation $x = w^\top \xi - b$, and
# $\|w\| = 1$.
#
# **The attack.** The worst change of Euclidean length $\varepsilon$ goes along $w$
# (exercise {ref}`worst-l2`): $\tilde\xi = \xi - \tau \varepsilon w$.
#
# **Learning.** Each example is used once, as the attack left it. The loss is
# $\ell = \tfrac12 (\sigma(\tilde\xi) - \tau)^2$; the talk does not name its loss, and this is the usual
# one. After each step $w$ is scaled back to length 1:
#
# $$
# \begin{aligned}
# w &\leftarrow \frac{w - \tfrac{\eta_w}N \nabla_w \ell}{\|w - \tfrac{\eta_w}N \nabla_w \ell\|}, \\
# b &\leftarrow b - \tfrac{\eta_b}N\, \partial_b \ell .
# \end{aligned}
# $$
#
# ## Two numbers are enough
#
# How good is the network? Its preactivation is normal, with mean $\pm \tfrac\rho2 R - b$ and variance
# $v$, where $R = w^\top B$ says how well $w$ points. So everything follows from $R$ and $b$. They are the
# **order parameters**. With $\Phi$ the normal distribution function, the share of examples that a change of
# length $\varepsilon$ makes wrong is
#
# ```{math}
# :label: adversarial-error
# \begin{aligned}
# S(R, b, \varepsilon) = {} & p\, \Phi\Big(\frac{\varepsilon + b - \rho R/2}{\sqrt{v_1}}\Big) \\
# & + (1 - p)\, \Phi\Big(\frac{\varepsilon - b - \rho R/2}{\sqrt{v_2}}\Big) ,
# \end{aligned}
# ```
#
# and the error is $S(R, b, 0)$.
#
# One step changes $R$ by about $1/N$. After $\alpha N$ steps the random parts have averaged out, and what
# is left is the mean. Write $d = (\mathrm{erf}(\tilde x) - \tau)\, \tfrac{2}{\sqrt\pi} e^{-\tilde x^2}$
# for the slope of the loss, and $\langle \cdot \rangle_k$ for its mean over the cloud $k$. Then
#
# ```{math}
# :label: order-parameters
# \begin{aligned}
# \frac{dR}{d\alpha} = {} & -\eta_w \tfrac\rho2 (1 - R^2)\, \big(p \langle d \rangle_1 - (1-p) \langle d \rangle_2\big) \\
# & - \tfrac12 \eta_w^2 R\, \big(p v_1 \langle d^2 \rangle_1 + (1-p) v_2 \langle d^2 \rangle_2\big) , \\
# \frac{db}{d\alpha} = {} & \eta_b \big(p \langle d \rangle_1 + (1-p) \langle d \rangle_2\big) .
# \end{aligned}
# ```
#
# The first line turns $w$ towards $B$. The second is the price of noise: every step adds something of
# random direction, and scaling $w$ back takes a little of $R$ away. The attack moves along $w$ alone, so
# it enters only through the means.
#
# Each mean is an integral over one normal number, and has a closed form. The solution takes milliseconds:

# %%
clusters, rule = Clusters(prior=prior), Rule(eps=eps)
R, b = order_parameters(clusters, rule, [alpha])
error, under_attack = (adversarial_error(clusters, R, b, radius) for radius in (0, eps))
{"R": R.item(), "b": b.item(), "error": error.item(), f"error at eps {eps:g}": under_attack.item()}

# %% [markdown]
# And one stream, drawn just now. No vector of a thousand numbers is needed for it: of an example only
# three numbers matter, its part along $w$, its part along what $B$ has across $w$, and the length of
# the rest.

# %%
R, b = simulate(clusters, rule, times[::5], n=n, runs=1, generator=generator(seed, "live"))
f"R = {R[-1, 0]:.4f}, b = {b[-1, 0]:.4f}"

# %% [markdown]
# ## Do streams follow the equations?
#
# The records hold ten streams of every kind. Points are their means, lines the solutions:

# %% tags=["hide-input"]
WORDS = {
    "standard": "standard",
    "adversarial": "adversarial",
    "random-1": "random, up to 1",
    "random-2": "random, up to 2",
    "non-robust": "wrong ones only, eps 1",
}
many = streams[(streams.n == streams.n.max()) & (streams.alpha % 10 == 0)]
many = many.assign(training=many.scenario.map(WORDS), panel=[
    f"{m}, prior {p:g}" for m, p in zip(many.measure, many.prior, strict=True)])  # fmt: skip
shown = many[many.measure.isin(["R", "b"]) & many.scenario.isin(["standard", "adversarial"])]
shown = shown.sort_values(["measure", "prior"], kind="stable")
theory = shown[(shown.source == "equations") & (shown.seed == shown.seed.min())]
foundations.beside_theory(
    shown[shown.source == "stream"],
    theory,
    "alpha",
    line="training",
    facet="panel",
    shared=False,
    x_title="learning time alpha",
    y="order parameter",
    description=f"R and b of streams in {streams.n.max():,} dimensions, mean and 95 % interval over seeds, and of "
    "the equations (lines), for standard and adversarial training",
)

# %% tags=["hide-input"]
follows, both_fall, trade = claims.streams(streams)
last = streams[
    (streams.alpha == claims.END) & (streams.source == "stream") & (streams.measure == "R")
]
spread = last.groupby(["n", "prior", "scenario"]).value.std().groupby("n").mean()
words = ", ".join(f"{value:.3f} in {size:,} dimensions" for size, value in spread.items())
worst = min(follows.effects, key=lambda e: e.low)
Markdown(
    f"**What we see.** That the means of the streams stay within {claims.CLOSE['R']:g} of the equations in R "
    f"and within {claims.CLOSE['b']:g} in b, for all rules and both priors: *{follows.verdict}* (the "
    f"nearest to its limit is {worst.label}). Single streams scatter. The standard deviation of R is {words}: it "
    "falls about as one over the root of the dimension, which is why many dimensions behave like none at "
    "random."
)

# %% [markdown]
# ## A gain and a price
#
# The talk's two scenarios differ in one number, the share $p$ of the label $+1$. After training, here is the
# adversarial error at every $\varepsilon$:


# %% tags=["hide-input"]
radii = np.linspace(0, 2.5, 11)


def robustness():
    for p in priors:
        cluster = Clusters(prior=p)
        lines = {name: order_parameters(cluster, rule, [alpha]) for name, rule in rules.items()}
        for name, (R, b) in lines.items():
            for radius, value in zip(radii, adversarial_error(cluster, R, b, radii), strict=True):
                yield {"line": name, "eps": radius, "value": value, "panel": f"prior {p:g}"}
        for radius in radii:
            yield {"line": "best possible", "eps": radius, "panel": f"prior {p:g}",
                   "value": best_error(cluster, float(radius))}  # fmt: skip


charts.against(
    pd.DataFrame(robustness()).assign(seed=0),
    "eps",
    line="line",
    facet="panel",
    x_title="eps of the attack",
    y="share of examples that are wrong",
    format=".0%",
    description=f"Adversarial error against eps after standard training and after training at eps {eps:g}, and the "
    "smallest error that any R and b have at each eps",
)

# %% tags=["hide-input"]
gain, lower = both_fall.effects
price, relief = trade.effects
Markdown(
    "**What we see.** In the recorded streams, with classes of one size, adversarial training changes the error by "
    f"{claims.in_words(gain, digits=2)} and the adversarial error by "
    f"{claims.in_words(lower, digits=2)}: it learns R faster. That both fall: *{both_fall.verdict}*. With classes of "
    f"two sizes the error changes by {claims.in_words(price)} and the adversarial error by "
    f"{-100 * relief.value:+.1f} points: *{trade.verdict}* that it trades one for the other."
)

# %% [markdown]
# Why? The attack moves both clouds along $w$ by $\varepsilon$ towards each other. At $R = 1$ their
# centres end at distance $\rho - 2\varepsilon$ from each other. In the talk $\rho = 2$ and
# $\varepsilon = 1$: they meet. Then no direction tells the classes apart, and the best one can do under
# attack is to say the more frequent label to all.
#
# ```{prf:proposition} When giving up is best
# :label: giving-up
# Let $v_1 = v_2$ and $\varepsilon \ge \rho/2$. Then $S(R, b, \varepsilon) \ge \min(p, 1 - p)$ for all
# $R \le 1$ and $b$, and $b \to \pm\infty$ comes as near to it as one likes.
# ```
#
# ```{prf:proof}
# Let $k = \varepsilon - \rho R / 2 \ge 0$ and $v = 1$. Since $\Phi$ rises,
# $S \ge p\, \Phi(b) + (1 - p)\, \Phi(-b) = (1 - p) + (2p - 1)\, \Phi(b)$, which lies between $p$ and
# $1 - p$.
# ```
#
# So the collapse is no failure of the training. It is what was asked for: an attack so strong that it can
# turn one class into the other leaves nothing better. Who chooses $\varepsilon$ decides that.
#
# ## Where learning collapses
#
# The same for every prior and every $\varepsilon$ in training, 1,681 solutions at each of three times. The
# colour is the clean error:

# %% tags=["hide-input"]
picture = records.read("collapse", "collapse")
fixed = picture[(picture.attack == "fixed") & (picture.measure == "error")]
foundations.plane(
    fixed.assign(time=[f"time {t:,.0f}" for t in fixed.alpha]),
    "prior",
    "eps",
    value="value",
    facet="time",
    x_title="share of the larger class",
    y_title="eps in training",
    format=".0%",
    rule=1.0,
    description="Clean error of adversarial training over the share of the larger class and eps, at three learning "
    "times; at the dashed line the attack makes the centres meet",
)


# %% tags=["hide-input"]
def clean(p, at, when, attack="fixed"):
    rows = picture[(picture.measure == "error") & (picture.attack == attack)]
    near = rows[np.isclose(rows.prior, p) & np.isclose(rows.eps, at) & (rows.alpha == when)]
    return near.value.item()


times_of = sorted(picture.alpha.unique())
row = {at: [clean(0.7, at, when) for when in times_of] for at in (0.75, 1.0, 1.25, 1.5)}
Markdown(
    "**What we see.** At prior .7 the clean error after a long time is "
    + ", ".join(f"{values[-1]:.1%} at eps {at:g}" for at, values in row.items())
    + f"; the smaller class is {0.3:.0%} of all. Where the centres meet, part of the loss is passing: at "
    f"eps 1 the error is {row[1.0][0]:.1%} at time {times_of[0]:g} and {row[1.0][1]:.1%} at time {times_of[1]:,.0f}. "
    "Well beyond, the error stays at the share of the smaller class: the network says one label to all."
)

# %% [markdown]
# In the collapse there is no final value of $b$: it drifts for ever, ever more slowly. So the chart ends
# at a time, not at infinity.
#
# ## Two variants
#
# The talk ends by asking for two variants. **Random** $\varepsilon$: each example is moved by a length of
# its own, uniform between 0 and $E$. **Wrong ones only**: the network learns only from examples that are
# wrong under attack, as the hinge loss would have it. Both have closed forms for $\langle d \rangle$. At the
# end of the recorded streams, prior .7:

# %% tags=["hide-input"]
end = streams[
    (streams.n == streams.n.max()) & (streams.alpha == claims.END) & (streams.prior == 0.7)
]
end = end.assign(training=end.scenario.map(WORDS))
wide = end[end.source == "stream"].pivot_table("value", "training", "measure", sort=False)
exact = end[end.source == "equations"].pivot_table("value", "training", "measure", sort=False)
columns = ["R", "b", "error", "adversarial error"]
shown = wide[columns].join(exact[["R", "b"]].add_suffix(", equations"))
shown = shown[["R", "R, equations", "b", "b, equations", "error", "adversarial error"]]
charts.table(
    shown.loc[list(WORDS.values())],
    index=True,
    caption="Adversarial training at eps 1 and its variants, at prior .7 and time 100: means of ten streams in 1,000 dimensions, and "
    "the equations",
    formats={name: ".1%" if "error" in name else ".3f" for name in shown},
)

# %% tags=["hide-input"]
errors = wide["error"]
Markdown(
    f"**What we see.** Random lengths up to 1 keep nearly all of the clean error, {errors['random, up to 1']:.1%} beside "
    f"{errors['standard']:.1%}, and lower the adversarial one to "
    f"{wide['adversarial error']['random, up to 1']:.1%}. Up to 2, the same length on average as the fixed attack, they "
    f"collapse as that does. Learning from wrong examples alone lies between: {errors['wrong ones only, eps 1']:.1%}."
)

# %% [markdown]
# ## When a symmetry breaks
#
# With classes of one size nothing prefers one label. By symmetry $b = 0$ solves the equations for ever. A
# solution need not be stable, though. A small $b$ decays while $\langle d \rangle$ rises with the mean of the
# preactivation, and grows where it falls. For $v = 1$ that is so from .389 beyond the boundary on, so
# at $R = 1$ from $\varepsilon = \rho/2 + .389$:

# %%
symmetry_breaking(Clusters())

# %% [markdown]
# The equations stay on the ridge if they start there. A stream does not: chance pushes it to one side, and
# it goes on. A hundred streams at each $\varepsilon$, at time 300:

# %% tags=["hide-input"]
broken = records.read("symmetry", "symmetry")
ends = broken[(broken.measure == "b") & (broken.source == "stream")]
charts.scatter(
    ends.assign(bias="a stream"),
    x="eps",
    y="value",
    colour="bias",
    hover=("run",),
    x_title="eps in training",
    y_title="bias b at time 300",
    description="Bias of a hundred streams with classes of one size at each eps: one cloud around 0, or two beside it",
)

# %% tags=["hide-input"]
errors = broken[broken.measure == "error"].pivot_table("value", "eps", "source")
up, down = (ends.groupby("eps").value.agg(lambda b, k=side: (k * b > 1).mean()) for side in (1, -1))
critical = symmetry_breaking(Clusters())
below, above = max(e for e in up.index if e < critical), min(e for e in up.index if e > 1.49)
Markdown(
    f"**What we see.** At eps {below:g}, below {critical:.3f}, {up[below] + down[below]:.0%} of the streams have a bias beyond "
    f"1. At eps {above:g} {up[above]:.0%} are above 1 and {down[above]:.0%} below -1. There the mean error of the streams is "
    f"{errors['stream'][above]:.1%}, while the equations say {errors['equations'][above]:.1%}. Neither is wrong. The equations "
    "follow one path along the ridge, to which no stream keeps. They hold for any fixed time as the dimension grows; chance "
    "needs the longer to leave the ridge the larger $N$ is."
)

# %% [markdown]
# ## Two layers
#
# The talk's last wish is a network of two layers. One layer cannot tell clusters apart that lie crosswise: the label
# $+1$ at both ends of one direction, $-1$ at both ends of another ("exclusive or"). Four hidden units can,
# $f(\xi) = \sum_k a_k\, \mathrm{erf}(w_k^\top \xi - b_k)$ with fixed signs $a_k$. This is a *soft committee*. It
# has no closed equations here, but its streams are drawn as exactly: of an example only its parts along the directions
# and the weights matter, and the length of the rest. The attack moves an example along the gradient of $f$.

# %% tags=["hide-input"]
committee = records.read("committee", "committee")
words = {
    "error": "error",
    "adversarial error": "error at eps 1",
    "specialisation": "specialisation",
}
charts.against(
    committee.assign(
        training=[f"trained at eps {value:g}" if value else "standard" for value in committee.eps],
        panel=committee.measure.map(words),
    ),
    "alpha",
    line="training",
    facet="panel",
    x_title="learning time alpha",
    y="share",
    description="Errors of soft committees against learning time, after standard and adversarial training, and how far "
    "each hidden unit has one direction to itself (1: wholly): mean and 95 % interval over streams",
)

# %% tags=["hide-input"]
(delay,) = claims.committees(committee)
last = committee[committee.alpha == committee.alpha.max()]
final = last.pivot_table("value", "eps", "measure")
Markdown(
    "**What we see.** At first no unit knows which direction is its own, and the error stays at one half: a *plateau*. "
    f"Then the units share out the directions, and the error falls. At time {claims.EARLY} training at eps 1 has changed "
    f"the error by {claims.in_words(delay.effects[0])}: *{delay.verdict}* that a strong attack delays it. A likely "
    "reason is that the attack hides just the small differences from which the units would learn their places. A weak one "
    "does no harm. At the end all "
    f"but the strongest err on {final['error'].iloc[:-1].max():.1%} at most. Under attack the committees trained at eps 1 "
    f"err on {final['adversarial error'][1.0]:.1%}, the standard ones on {final['adversarial error'][0.0]:.1%}: here the "
    "clusters are alike and far apart, and standard training already finds what the robust answer is."
)

# %% [markdown]
# ## What the model leaves out
#
# The clouds are round, the network is linear, $w$ has length 1, and each example is used once. None of this is
# so for a network on images. The loss is ours. The model does not say how robust a deep network will be. It
# says which effects need no depth at all: that an attack can speed up learning, that its strength trades
# one error for another, that classes of two sizes make the trade worse, and that too strong an attack asks for a
# classifier that gives up.
#
# ## In short
#
# - In many dimensions training is the solution of two equations, for the direction $R$ and the bias $b$, and
#   streams follow them.
# - Adversarial training with classes of one size learns faster; with classes of two sizes it pays with clean
#   error, and beyond $\varepsilon = \rho/2$ the best answer is one label for all.
# - At $\varepsilon \approx 1.39$ the symmetric solution gets unstable: streams take sides, the equations cannot.
#
# ## Exercises
#
# ```{exercise} By hand
# :label: bayes-bias
# Show that for $v_1 = v_2 = v$ and $\varepsilon < \rho/2$ the best bias at $R = 1$ is
# $b = -\tfrac{v}{\rho - 2 \varepsilon} \ln \tfrac{p}{1 - p}$. What happens as $\varepsilon \to \rho/2$?
# *Hint: set the derivative of {eq}`adversarial-error` to zero.*
# ```
#
# ```{exercise} By code
# :label: fast-or-slow
# For `prior = 0.5`, which `eps` in training gives the largest $R$ at time 20? *Hint: a loop over
# `order_parameters`. Go beyond 2.*
# ```
#
# ```{exercise} By experiment
# :label: smaller-dimensions
# Record the profile `symmetry` for `n` 100. Where do the streams take sides now? *Hint: in few dimensions chance
# pushes harder.*
# ```
