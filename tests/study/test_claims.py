import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib.study import claims
from lib.study.claims import (
    FAILS,
    HOLDS,
    OPEN,
    SEEN,
    Effect,
    augmentations,
    balanced,
    by_seed,
    effect,
    effects_frame,
    evaluate,
    frame,
    radius_that_tells,
    rank_correlation,
    verdict,
    versus,
)

SPREAD = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True)


# Effects


@given(numbers=SPREAD, gaps=st.integers(0, 3))
def test_an_effect_is_the_mean_with_scipys_interval(numbers, gaps):
    values = np.array(numbers) / 100
    series = pd.Series(np.append(values, [np.nan] * gaps), index=range(len(values) + gaps))
    found = effect("a", series)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.label, found.seeds) == ("a", len(values))
    # The interval leaves zero out exactly where the two-sided test rejects at 5 %.
    p_value = stats.ttest_1samp(values, 0).pvalue
    if abs(p_value - 0.05) > 1e-9:
        assert found.sign == (np.sign(values.mean()) if p_value < 0.05 else 0)


def test_one_seed_or_none_decides_nothing():
    one = effect("a", pd.Series({3: -2.0}))
    assert (one.value, one.low, one.high, one.seeds, one.sign) == (-2, -np.inf, np.inf, 1, 0)
    for nothing in (pd.Series(dtype=float), pd.Series({0: np.nan, 1: np.nan})):
        none = effect("a", nothing)
        assert np.isnan(none.value)
        assert (none.low, none.high, none.seeds, none.sign) == (-np.inf, np.inf, 0, 0)
    assert effect("a", pd.Series({0: 1.0, 1: np.nan})).sign == 0


@given(numbers=SPREAD)
def test_an_effect_mirrors(numbers):
    one = effect("a", pd.Series(numbers, dtype=float))
    other = effect("a", -pd.Series(numbers, dtype=float))
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))
    assert other.sign == -one.sign


# Verdicts


def of_sign(sign):
    return Effect("a", sign, sign - 0.5, sign + 0.5, 3)


@given(signs=st.lists(st.sampled_from([-1, 0, 1]), max_size=6), side=st.sampled_from([-1, 1]))
def test_the_verdict_on_effects(signs, side):
    found = verdict([of_sign(sign) for sign in signs], side)
    if -side in signs:
        assert found == FAILS
    elif 0 in signs or not signs:
        assert found == OPEN
    else:
        assert found == HOLDS
    # The other way round, the other claim; the order does not matter.
    assert verdict([of_sign(-sign) for sign in signs], -side) == found
    assert verdict([of_sign(sign) for sign in reversed(signs)], side) == found


@given(low=st.floats(-5, 5), width=st.floats(0, 5))
def test_the_sign_of_an_effect_needs_the_whole_interval(low, width):
    high = low + width
    sign = Effect("a", (low + high) / 2, low, high, 3).sign
    assert sign == (1 if low > 0 else -1 if high < 0 else 0)


# Tables made by hand

SEEDS = (0, 1, 2, 3)
NOISE = (0.001, -0.002, 0.0015, -0.0005)  # one a seed: no interval is a point


def table(cells, seeds=SEEDS, p=(0.5, 1.0), noise=True, **columns):
    """Rows with the value `cells[augmentation]` at every p and seed, "none" at p = 0."""
    return pd.DataFrame(
        [
            {"augmentation": name, "p": q, "seed": seed, **columns,
             "value": value + (NOISE[seed] * (1 + len(name)) if noise else 0)}
            for name, value in cells.items()
            for q in ((0.0,) if name == "none" else p)
            for seed in seeds
        ]
    )  # fmt: skip


def performance(clean, risk, **options):
    strongest = {"attack": "pgd", "eps": 0.25, "steps": 100}
    decoys = [
        {"attack": "pgd", "eps": 0.5, "steps": 100},
        {"attack": "pgd", "eps": 0.25, "steps": 10},
    ]
    parts = [table(clean, attack="none", eps=0.0, steps=0, **options)]
    parts += [table(risk, **strongest, **options)]
    # What the claims must not read: other attacks that say the opposite.
    parts += [table({k: -v for k, v in risk.items()}, **decoy, **options) for decoy in decoys]
    return pd.concat(parts, ignore_index=True)


def distances_table(values, **options):
    """Other readings of the distances say the opposite."""
    opposite = {k: -v for k, v in values.items()}
    return pd.concat([
        table(values, measure="mean distance", upto=1.5, **options),
        table(opposite, measure="quantile", q=0.5, **options),
        table(opposite, measure="risk within", eps=0.25, **options),
    ], ignore_index=True)  # fmt: skip


def stress_table(values, **options):
    """At the radius that counts, of three; the others and adversarial centres say the opposite."""
    opposite = {k: -v for k, v in values.items()}

    def around(centre, eps, values, level, group="all"):
        raised = {k: v + level for k, v in values.items()}  # only differences count
        return table(raised, centre=centre, eps=eps, group=group, **options)

    return pd.concat([
        around("clean", 0.5, opposite, -10), around("clean", 2.0, values, 10),
        around("clean", 8.0, opposite, 20),
        around("adversarial", 1.0, opposite, 20, group="successful"),
    ], ignore_index=True)  # fmt: skip


def influence_table(readings, **options):
    """`readings[reading, test][augmentation]`; decoys of other methods say the opposite."""
    parts = []
    for (reading, test), values in readings.items():
        where = {"measure": "log ratio", "reading": reading, "test": test}
        parts.append(table(values, method="exact", **where, **options))
        for method in ("identity", "gradient norm"):
            opposite = {k: -v for k, v in values.items()}
            parts.append(table(opposite, method=method, **where, **options))
    share = {"measure": "test points misclassified", "test": "clean"}
    parts.append(table({"none": 0.1, "classic": 0.1, "mixup": 0.1}, **share, **options))
    return pd.concat(parts, ignore_index=True)


READINGS = {
    (reading, test): {"classic": value, "mixup": value}
    for reading, value in [("groups", 1.0), ("pairs", 1.0), ("control", 0.5)]
    for test in ("clean", "adversarial")
}
CLEAN = {"none": 0.3, "classic": 0.1, "mixup": 0.2}
RISK = {"none": 0.6, "classic": 0.4, "mixup": 0.8}
DISTANCE = {"none": 0.5, "classic": 0.7, "mixup": 0.4}
STRESS = {"none": 0.2, "classic": 0.1, "mixup": 0.4}


def verdicts(
    clean=CLEAN, risk=RISK, distance=DISTANCE, stress=STRESS, readings=READINGS, **options
):
    found = evaluate(
        performance(clean, risk, **options),
        distances_table(distance, **options),
        stress_table(stress, **options),
        influence_table(readings, **options),
    )
    return [claim.verdict for claim in found]


def changed(readings, **by):
    """READINGS with the values of e.g. `groups_adversarial` replaced."""
    return readings | {tuple(name.split("_")): values for name, values in by.items()}


USEFUL, ROBUST, FAR, NOT_ALWAYS, STRESSED, WITH_RISK, MORE, TRAINING, ADVERSARIAL = range(9)


def test_claims_that_hold():
    found = verdicts(readings=changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2}))
    assert found == [HOLDS] * 9


def test_claims_that_do_not_hold():
    found = verdicts(
        clean={"none": 0.3, "classic": 0.2, "mixup": 0.1},
        risk={"none": 0.6, "classic": 0.5, "mixup": 0.4},
        distance={"none": 0.5, "classic": 0.6, "mixup": 0.7},
        stress={"none": 0.1, "classic": 0.2, "mixup": 0.3},
        readings={
            (reading, test): {"classic": value, "mixup": value}
            for reading, value in [("groups", -1.0), ("pairs", 0.5), ("control", 1.0)]
            for test in ("clean", "adversarial")
        } | {("groups", "adversarial"): {"classic": -2, "mixup": -2}},
    )  # fmt: skip
    expected = [FAILS] * 9
    expected[STRESSED] = OPEN  # nothing is less robust than no augmentation
    assert found == expected


def test_a_single_seed_decides_nothing():
    readings = changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2})
    assert verdicts(readings=readings, seeds=(2,)) == [OPEN] * 9


def test_equal_values_decide_nothing():
    """All networks alike: what is left is noise of mean zero."""
    same = dict.fromkeys(CLEAN, 0.3)
    nothing = {key: {"classic": 0.0, "mixup": 0.0} for key in READINGS}
    found = verdicts(clean=same, risk=same, distance=same, stress=same, readings=nothing)
    del found[WITH_RISK]  # both tables carry the same noise, so their ranks agree
    assert found == [OPEN] * 8


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        ({"none": 0.3, "classic": 0.1, "mixup": 0.2}, HOLDS),
        ({"none": 0.3, "classic": 0.1, "mixup": 0.1}, OPEN),
        ({"none": 0.1, "classic": 0.1, "mixup": 0.2}, OPEN),
        ({"none": 0.05, "classic": 0.1, "mixup": 0.2}, FAILS),
        ({"none": 0.3, "classic": 0.2, "mixup": 0.1}, FAILS),
        ({"none": 0.2, "classic": 0.2, "mixup": 0.1}, FAILS),
    ],
)
def test_the_most_useful_beats_every_other_and_none(clean, expected):
    assert verdicts(clean=clean)[USEFUL] == expected
    # The same numbers as risks decide on the most robust, and as errors only on the useful.
    assert verdicts(risk=clean)[ROBUST] == expected
    assert verdicts(clean=clean)[ROBUST] == verdicts()[ROBUST]


@pytest.mark.parametrize(
    ("clean", "risk", "expected"),
    [
        ({"classic": -1, "mixup": -1}, {"classic": -1, "mixup": 1}, HOLDS),
        ({"classic": -1, "mixup": 0}, {"classic": 1, "mixup": 0}, HOLDS),
        ({"classic": -1, "mixup": -1}, {"classic": -1, "mixup": -1}, FAILS),
        ({"classic": -1, "mixup": -1}, {"classic": -1, "mixup": 0}, OPEN),
        ({"classic": -1, "mixup": 1}, {"classic": -1, "mixup": 1}, FAILS),
        ({"classic": 1, "mixup": 1}, {"classic": -1, "mixup": 1}, OPEN),  # none is more accurate
    ],
)
def test_one_augmentation_is_enough_to_part_accuracy_and_robustness(clean, risk, expected):
    found = verdicts(clean={"none": 0, **clean}, risk={"none": 0, **risk})
    assert found[NOT_ALWAYS] == expected


@pytest.mark.parametrize(
    ("risk", "stress", "expected"),
    [
        ({"classic": 1, "mixup": 1}, {"classic": 1, "mixup": 1}, HOLDS),
        ({"classic": 1, "mixup": 1}, {"classic": 1, "mixup": -1}, FAILS),
        ({"classic": 1, "mixup": 1}, {"classic": 1, "mixup": 0}, OPEN),
        ({"classic": -1, "mixup": 1}, {"classic": -1, "mixup": 1}, HOLDS),  # classic is robust
        ({"classic": 0, "mixup": 1}, {"classic": -1, "mixup": 1}, HOLDS),  # perhaps it is
        ({"classic": -1, "mixup": -1}, {"classic": 1, "mixup": 1}, OPEN),
    ],
)
def test_stress_is_asked_of_augmentations_that_are_not_robust(risk, stress, expected):
    found = verdicts(risk={"none": 0, **risk}, stress={"none": 0, **stress})
    assert found[STRESSED] == expected


def test_the_excess_over_the_control_speaks_of_training():
    """Pairs far above zero, as fresh images' losses make them, but no more than the control's."""
    both = {"classic": 3.0, "mixup": 3.0}
    readings = READINGS | {
        (r, test): both for r in ("pairs", "control") for test in ("clean", "adversarial")
    }
    assert verdicts(readings=readings)[TRAINING] == OPEN
    one = changed(READINGS, pairs_adversarial={"classic": 1.0, "mixup": 0.4})
    assert verdicts(readings=one)[TRAINING] == FAILS
    assert verdicts(readings=one)[MORE] == HOLDS


def test_influence_is_asked_of_every_augmentation_and_test():
    assert verdicts(readings=changed(READINGS, groups_clean={"classic": 1, "mixup": -1}))[MORE] \
        == FAILS  # fmt: skip
    assert verdicts(readings=changed(READINGS, groups_clean={"classic": 1, "mixup": 0}))[MORE] \
        == OPEN  # fmt: skip
    less = changed(READINGS, groups_adversarial={"classic": 2, "mixup": 0.5})
    assert verdicts(readings=less)[ADVERSARIAL] == FAILS


def test_missing_cells_are_left_out_and_never_zero():
    """Influence ratios are missing where a group is too small, e.g. at every p = 1."""
    tables = [
        performance(CLEAN, RISK),
        distances_table(DISTANCE),
        stress_table(STRESS),
        influence_table(changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2})),
    ]
    before = evaluate(*tables)
    ratios = tables[-1]
    ratios.loc[(ratios.p == 1) & (ratios.reading == "groups"), "value"] = np.nan
    after = evaluate(*tables)
    for one, other in zip(before, after, strict=True):
        assert one.verdict == other.verdict == HOLDS
        for a, b in zip(one.effects, other.effects, strict=True):
            assert b.value == pytest.approx(a.value, abs=1e-12)
    # Without any value there is nothing to say.
    ratios["value"] = np.nan
    assert [claim.verdict for claim in evaluate(*tables)[MORE:]] == [OPEN] * 3


def test_an_augmentation_with_no_value_at_all_leaves_the_claim_open():
    readings = changed(READINGS, groups_clean={"classic": 1.0, "mixup": np.nan})
    found = verdicts(readings=readings)
    assert found[MORE] == OPEN
    assert found[TRAINING] == HOLDS


def test_a_p_that_not_all_have_does_not_tip_the_scales():
    """In the middle of a sweep, extreme values at a p that one augmentation has at one seed."""
    tables = [
        performance(CLEAN, RISK),
        distances_table(DISTANCE),
        stress_table(STRESS),
        influence_table(changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2})),
    ]
    before = evaluate(*tables)
    for seed in (2, 1):
        for k, rows in enumerate(tables):
            more = rows[(rows.augmentation == "mixup") & (rows.p == 1) & (rows.seed == seed)]
            more = more.assign(p=0.75, value=-50 * more["value"])
            tables[k] = pd.concat([rows, more], ignore_index=True)
    for one, other in zip(before, evaluate(*tables), strict=True):
        assert one.verdict == other.verdict == HOLDS
        if one.sentence != "Stress goes with risk.":  # that is of points, not of means over p
            for a, b in zip(one.effects, other.effects, strict=True):
                assert b.value == pytest.approx(a.value, abs=1e-12)


CELL = st.tuples(st.sampled_from("ab"), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 2))


@given(cells=st.sets(CELL, min_size=1), lost=st.sets(CELL))
def test_balanced_keeps_the_p_that_every_augmentation_has_at_every_seed(cells, lost):
    cells = [("none", 0.0, 0), *sorted(cells)]
    rows = pd.DataFrame(cells, columns=["augmentation", "p", "seed"])
    rows["value"] = [np.nan if cell in lost else 1.0 for cell in cells]
    there = {cell for cell in cells if cell not in lost}
    pairs = {(a, seed) for a, p, seed in there if p}
    full = {p for _, p, _ in there if all((a, p, seed) in there for a, seed in pairs)} | {0.0}
    found = balanced(rows)
    assert set(found[["augmentation", "p", "seed"]].itertuples(index=False, name=None)) == {
        cell for cell in there if cell[1] in full
    }
    assert len(found) == sum(cell[1] in full for cell in there)


def test_claims_as_a_table():
    tables = performance(CLEAN, RISK), distances_table(DISTANCE), stress_table(STRESS)
    claims = evaluate(*tables, influence_table(READINGS))
    shown = frame(claims)
    assert shown["claim"].tolist() == [claim.sentence for claim in claims]
    assert shown["verdict"].tolist() == [claim.verdict for claim in claims]
    for claim in claims:
        effects = effects_frame(claim)
        assert len(effects) == len(claim.effects)
        for line, e in zip(effects.to_dict("records"), claim.effects, strict=True):
            assert (line["value"], line["low"], line["high"]) == (e.value, e.low, e.high)
            words = {"above zero": e.low > 0, "below zero": e.high < 0}
            assert words.get(line["verdict"], not any(words.values()))


# Readings of tables, against pandas and scipy written differently


def random_table(seed, columns=("a", "b")):
    rng = np.random.default_rng(seed)
    rows = [
        {"augmentation": name, "p": p, "seed": s, "attack": attack, "value": rng.standard_normal()}
        for name in ("none", "classic", "mixup")
        for p in ((0.0,) if name == "none" else (0.25, 0.5, 1.0))
        for s in range(4)
        for attack in columns
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)


@given(seed=st.integers(0, 1000))
def test_versus_is_scipys_paired_t_test(seed):
    rows = random_table(seed)

    def means(name):
        return [
            np.mean([v for a, _, z, w, v in rows.values.tolist() if (a, z, w) == (name, s, "b")])
            for s in range(4)
        ]

    for other in ("none", "mixup"):
        found = versus(rows, "classic", other, attack="b")
        test = stats.ttest_rel(means("classic"), means(other))
        low, high = test.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.seeds == 4
        assert found.label.startswith("classic - ")


def test_values_are_paired_by_seed_and_a_seed_without_partner_is_left_out():
    """A large effect of the seed cancels; it would drown the difference otherwise."""
    rows = pd.DataFrame(
        [
            {"augmentation": name, "p": p, "seed": s, "value": 100.0 * s + shift + 0.01 * (s % 2)}
            for name, p, shift in [("none", 0.0, 0.0), ("classic", 0.5, 1.0)]
            for s in range(5)
        ]
    )
    rows.loc[rows.augmentation == "classic", "value"] += 0.001 * rows["seed"]
    found = versus(rows, "classic", "none")
    assert found.value == pytest.approx(1.002)
    assert found.sign == 1
    lonely = rows[~((rows.augmentation == "none") & (rows.seed == 4))]
    assert versus(lonely, "classic", "none").seeds == 4
    assert versus(lonely, "classic", "none").value == pytest.approx(1.0015)


def test_by_seed_averages_over_p():
    rows = pd.DataFrame({"augmentation": ["a"] * 4, "p": [0.5, 1, 0.5, 1], "seed": [0, 0, 1, 1],
                         "test": "x", "value": [1.0, 3.0, 5.0, 9.0]})  # fmt: skip
    assert by_seed(rows, augmentation="a", test="x").to_dict() == {0: 2.0, 1: 7.0}
    assert by_seed(rows, augmentation="b").to_dict() == {}
    assert augmentations(pd.concat([rows, rows.assign(augmentation="none")])) == ["a"]


@pytest.mark.parametrize(
    ("stresses", "chosen"),
    [
        ({0.5: 0.03, 2: 0.2, 7: 0.7, 14: 0.8}, 2),
        ({0.5: 0.4, 2: 0.1}, 0.5),
        ({0.5: 0.01, 2: SEEN}, 2),
        ({0.5: 0.01, 2: 0.09}, 2),  # the largest, where none is enough
        ({1: 0.0}, 1),
    ],
)
def test_the_radius_that_tells_is_the_smallest_of_enough_stress(stresses, chosen):
    rows = [
        table({"none": value, "classic": 1 - value}, noise=False, centre="clean", eps=float(eps))
        for eps, value in stresses.items()
    ]
    beside = table({"none": 0.5, "classic": 0.5}, centre="adversarial", eps=0.1)
    assert radius_that_tells(pd.concat([*rows, beside])) == chosen


@given(seed=st.integers(0, 1000))
def test_rank_correlation_is_scipys_within_each_seed(seed):
    stress = random_table(seed, ("x",)).rename(columns={"attack": "centre"}).assign(eps=2.0)
    risk = random_table(seed + 1, ("pgd", "none")).assign(eps=0.25, steps=100)
    decoy = stress.assign(centre="y", value=-stress["value"])
    radius = {"centre": "x", "eps": 2.0}
    found = rank_correlation(pd.concat([stress, decoy]), risk, radius)
    by_hand = []
    for s in range(4):
        cells = [("none", 0.0)] + [(a, p) for a in ("classic", "mixup") for p in (0.25, 0.5, 1.0)]

        def value(rows, a, p, s=s):
            here = rows[(rows.augmentation == a) & (rows.p == p) & (rows.seed == s)]
            return here["value"].item()

        one = [value(stress, *cell) for cell in cells]
        other = [value(risk[risk.attack == "pgd"], *cell) for cell in cells]
        # Pearson's correlation of the ranks, no ties.
        by_hand.append(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])
    r = np.clip(by_hand, -1 + 1e-9, 1 - 1e-9)  # a perfect order would have an infinite z
    z = 0.5 * np.log((1 + r) / (1 - r))  # Fisher's
    assert found.value == pytest.approx(np.tanh(z.mean()))
    low, high = stats.ttest_1samp(z, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((np.tanh(low), np.tanh(high)), abs=1e-6)


@pytest.mark.parametrize(("slope", "expected"), [(1, HOLDS), (-1, FAILS)])
def test_stress_that_goes_with_risk(slope, expected):
    """Monotone but not linear over the points of a seed, with a disagreement of one seed."""
    cells = {"none": 0.1, "classic": 0.2, "mixup": 0.3, "other": 0.4}
    bent = {name: slope * value**3 for name, value in cells.items()}
    risk, stress = performance(CLEAN, cells), stress_table(bent)
    swapped = (stress.seed == 3) & (stress.centre == "clean")
    stress.loc[swapped & (stress.augmentation == "none"), "value"] += (
        slope * (0.2**3 - 0.1**3) + 1e-3
    )
    tables = risk, distances_table(DISTANCE), stress, influence_table(READINGS)
    found = evaluate(*tables)[WITH_RISK]
    assert found.verdict == expected
    assert found.effects[0].seeds == 4


@pytest.mark.parametrize("p", [(1.0,), (0.5, 1.0)])
def test_too_few_networks_have_no_rank_correlation(p):
    """Over three or four networks ranks agree exactly at all seeds: an interval of no width."""
    cells = {"none": 0.1, "classic": 0.2, "mixup": 0.3, "other": 0.4}
    risk, stress = performance(CLEAN, cells, p=p), stress_table(cells, p=p)
    tables = risk, distances_table(DISTANCE), stress, influence_table(READINGS)
    found = evaluate(*tables)[WITH_RISK]
    assert found.verdict == (HOLDS if len(p) == 2 else OPEN)
    assert found.effects[0].seeds == (4 if len(p) == 2 else 0)


def test_claims_know_no_torch():
    script = "import sys, lib.study.claims; print('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert made.stdout.strip() == "False"


@given(p=st.sampled_from([0.35, 0.5]), seed=st.sampled_from([0, 7]),
       name=st.sampled_from(["classic", "mixup", "new"]))  # fmt: skip
def test_points_beside_the_grid_decide_nothing(p, seed, name):
    on_grid = table({"none": 0.1, "classic": 0.2, "mixup": 0.3})
    grid = {"augmentation": ["classic", "mixup"], "p": sorted(set(on_grid.p)),
            "seed": sorted(set(on_grid.seed))}  # fmt: skip
    beside = on_grid.iloc[[0]].assign(augmentation=name, p=p, seed=seed)
    inside = name != "new" and p in grid["p"] and seed in grid["seed"]
    found = claims.planned(pd.concat([on_grid, beside], ignore_index=True), grid)
    assert len(found) == len(on_grid) + inside
