import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib.study import claims, verdicts
from lib.study.claims import (
    FAILS,
    HOLDS,
    OPEN,
    SEEN,
    augmentations,
    balanced,
    by_seed,
    effects_frame,
    evaluate,
    frame,
    grain,
    radius_that_tells,
    rank_correlations,
    versus,
)

# Tables made by hand

SEEDS = (0, 1, 2, 3)
NOISE = (0.001, -0.002, 0.0015, -0.0005)  # one a seed: no interval is a point


def table(cells, seeds=SEEDS, p=(0.5, 1.0), noise=True, **columns):
    """Rows with the value `cells[augmentation]` at every p and seed, "none" at p = 0."""
    return pd.DataFrame(
        [
            {"augmentation": name, "p": q, "seed": seed, "examples": 10_000, **columns,
             "value": value + (NOISE[seed] * (1 + len(name)) if noise else 0)}
            for name, value in cells.items()
            for q in ((0.0,) if name == "none" else p)
            for seed in seeds
        ]
    )  # fmt: skip


def performance(clean, risk, **options):
    pgd = {"measure": "risk under attack", "attack": "pgd"}
    strongest = {**pgd, "eps": 0.25, "steps": 100}
    decoys = [{**pgd, "eps": 0.5, "steps": 100}, {**pgd, "eps": 0.25, "steps": 10}]
    parts = [table(clean, measure="clean error", attack="none", eps=0.0, steps=0, **options)]
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
        return table(raised, measure="prediction-change stress", centre=centre, eps=eps,
                     group=group, **options)  # fmt: skip

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
    for reading, value in [("groups", 1.0), ("pairs", -1.0), ("control", 0.5)]
    for test in ("clean", "adversarial")
}
CLEAN = {"none": 0.3, "classic": 0.1, "mixup": 0.2}
RISK = {"none": 0.6, "classic": 0.4, "mixup": 0.8}
DISTANCE = {"none": 0.5, "classic": 0.7, "mixup": 0.4}
STRESS = {"none": 0.2, "classic": 0.1, "mixup": 0.4}


def decided(clean=CLEAN, risk=RISK, distance=DISTANCE, stress=STRESS, readings=READINGS, **options):
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


USEFUL, ROBUST, FAR, NOT_ALWAYS, STRESSED, WITH_RISK, MORE, ADVERSARIAL = range(8)


def test_claims_that_hold():
    found = decided(readings=changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2}))
    expected = [HOLDS] * 8
    expected[WITH_RISK] = OPEN  # of two augmentations, as likely as not
    assert found == expected


def test_claims_that_do_not_hold():
    found = decided(
        clean={"none": 0.3, "classic": 0.2, "mixup": 0.1},
        risk={"none": 0.6, "classic": 0.5, "mixup": 0.4},
        distance={"none": 0.5, "classic": 0.6, "mixup": 0.7},
        stress={"none": 0.1, "classic": 0.2, "mixup": 0.3},
        readings={
            (reading, test): {"classic": value, "mixup": value}
            for reading, value in [("groups", -1.0), ("pairs", 0.5)]
            for test in ("clean", "adversarial")
        } | {("groups", "adversarial"): {"classic": -2, "mixup": -2}},
    )  # fmt: skip
    expected = [FAILS] * 8
    expected[STRESSED] = OPEN  # nothing is less robust than no augmentation
    expected[WITH_RISK] = OPEN  # never refuted
    assert found == expected


def test_a_single_seed_decides_nothing():
    readings = changed(READINGS, groups_adversarial={"classic": 2, "mixup": 2})
    assert decided(readings=readings, seeds=(2,)) == [OPEN] * 8


def test_equal_values_decide_nothing():
    """All networks alike: what is left is noise of mean zero."""
    same = dict.fromkeys(CLEAN, 0.3)
    nothing = {key: {"classic": 0.0, "mixup": 0.0} for key in READINGS}
    found = decided(clean=same, risk=same, distance=same, stress=same, readings=nothing)
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
    assert decided(clean=clean)[USEFUL] == expected
    # The same numbers as risks decide on the most robust, and as errors only on the useful.
    assert decided(risk=clean)[ROBUST] == expected
    assert decided(clean=clean)[ROBUST] == decided()[ROBUST]


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
    found = decided(clean={"none": 0, **clean}, risk={"none": 0, **risk})
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
    found = decided(risk={"none": 0, **risk}, stress={"none": 0, **stress})
    assert found[STRESSED] == expected


def test_influence_is_asked_of_every_augmentation_and_test():
    assert decided(readings=changed(READINGS, groups_clean={"classic": 1, "mixup": -1}))[MORE] \
        == FAILS  # fmt: skip
    assert decided(readings=changed(READINGS, groups_clean={"classic": 1, "mixup": 0}))[MORE] \
        == OPEN  # fmt: skip
    less = changed(READINGS, groups_adversarial={"classic": 2, "mixup": 0.5})
    assert decided(readings=less)[ADVERSARIAL] == FAILS


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
        assert one.verdict == other.verdict == (OPEN if "goes with" in one.sentence else HOLDS)
        for a, b in zip(one.effects, other.effects, strict=True):
            assert b.value == pytest.approx(a.value, abs=1e-12)
    # Without any value there is nothing to say.
    ratios["value"] = np.nan
    assert [claim.verdict for claim in evaluate(*tables)[MORE:]] == [OPEN] * 2


def test_an_augmentation_with_no_value_at_all_leaves_the_claim_open():
    readings = changed(READINGS, groups_clean={"classic": 1.0, "mixup": np.nan})
    found = decided(readings=readings)
    assert found[MORE] == OPEN


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
        assert one.verdict == other.verdict == (OPEN if "goes with" in one.sentence else HOLDS)
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
    frame = pd.DataFrame(rows).assign(measure="distance", examples=10)
    return frame.sample(frac=1, random_state=seed)


@given(seed=st.integers(0, 1000))
def test_versus_is_scipys_paired_t_test(seed):
    rows = random_table(seed)

    def means(name):
        return [
            np.mean(
                [v for a, _, z, w, v, *_ in rows.values.tolist() if (a, z, w) == (name, s, "b")]
            )  # fmt: skip
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
            {
                "augmentation": name,
                "p": p,
                "seed": s,
                "measure": "distance",
                "examples": 10,
                "value": 100.0 * s + shift + 0.01 * (s % 2),
            }
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


FOUR = ("classic", "mixup", "other", "another")


def curves(order, p=(0.5, 1.0), **columns):
    """Values that rise with p and with the place in `order`, after those of p = 0."""
    parts = [table({"none": 0.1}, noise=False, **columns)]
    for q in p:
        values = {name: 0.1 + q * (k + 1) / 10 for k, name in enumerate(order)}
        parts.append(table(values, p=(q,), noise=False, **columns))
    return pd.concat(parts, ignore_index=True)


def paired(stress, risk, **options):
    """The claim on stress and risk whose augmentations are in these orders."""
    found = claims._stress_goes_with_risk(
        curves(risk, **claims.ATTACK, **options),
        curves(stress, centre="clean", eps=2.0, **options),
        {"centre": "clean", "eps": 2.0},
    )
    (only,) = found.effects
    return found.verdict, only


def test_stress_that_goes_with_risk():
    """The same order of four augmentations is the best of 24, of fewer it decides nothing."""
    verdict, found = paired(FOUR, FOUR)
    assert (verdict, found.seeds, found.p) == (HOLDS, 4, pytest.approx(1 / 24))
    assert "+1.00" in found.label
    assert paired(FOUR, FOUR[::-1])[0] == OPEN  # never refuted
    assert paired(FOUR, (*FOUR[:2], "another", "other"))[0] == OPEN
    assert paired(FOUR[:3], FOUR[:3])[0] == OPEN
    assert paired(FOUR, FOUR, p=(1.0,))[0] == HOLDS
    assert paired((*FOUR, "fifth"), (*FOUR, "fifth"))[1].p == pytest.approx(1 / 120)


def test_a_rise_with_p_that_all_augmentations_share_is_no_evidence():
    """Stress that knows p alone correlates with risk whatever the pairing."""
    risk = curves(FOUR, **claims.ATTACK)
    flat = risk.assign(value=risk.p, centre="clean", eps=2.0)
    found, seeds = rank_correlations(flat, risk, {"centre": "clean", "eps": 2.0})
    assert found[0] > 0.5
    assert found == pytest.approx(np.full(24, found[0]))
    assert verdicts.beyond("a", found, seeds).sign == 0


def test_compositions_count_no_augmentation_twice():
    more = (*FOUR[:3], "classic+mixup", "mixup+other")
    assert paired(more, more)[0] == OPEN


def test_equal_stress_decides_nothing_whatever_its_last_digits():
    risk = curves(FOUR, **claims.ATTACK)
    flat = risk.assign(value=0.3 + 1e-16 * risk.value, centre="clean", eps=2.0)
    found, _ = rank_correlations(flat, risk, {"centre": "clean", "eps": 2.0})
    assert (found == 0).all()
    assert verdicts.chance(found) == 1


@pytest.mark.parametrize("seeds", [(), (3,)])
def test_rank_correlation_of_one_seed_or_none_decides_nothing(seeds):
    risk, stress = curves(FOUR, **claims.ATTACK), curves(FOUR, centre="clean", eps=2.0)
    radius = {"centre": "clean", "eps": 2.0}
    found, there = rank_correlations(stress[stress.seed.isin(seeds)], risk, radius)
    assert there == len(seeds)
    assert verdicts.chance(found) == 1
    effect = verdicts.beyond("a", found, there)
    assert (effect.sign, effect.low, effect.high) == (0, -np.inf, np.inf)


@given(seed=st.integers(0, 1000))
def test_rank_correlations_are_scipys_of_stress_and_risk_at_other_seeds(seed):
    stress = random_table(seed, ("x",)).rename(columns={"attack": "centre"}).assign(eps=2.0)
    risk = random_table(seed + 1, ("pgd", "none")).assign(eps=0.25, steps=100)
    decoy = stress.assign(centre="y", value=-stress["value"])
    found, seeds = rank_correlations(pd.concat([stress, decoy]), risk, {"centre": "x", "eps": 2.0})
    assert (len(found), seeds) == (2, 4)

    def cells(rows, names, of):
        return [
            np.mean([v for a, p, s, v in rows[["augmentation", "p", "seed", "value"]].values
                     if (a, p) == (name, q) and s in of])
            for name, q in [("none", 0.0), *((a, q) for a in names for q in (0.25, 0.5, 1.0))]
        ]  # fmt: skip

    names = ["classic", "mixup"]
    for k, order in enumerate((names, names[::-1])):
        one = cells(stress, names, (0, 2))
        other = cells(risk[risk.attack == "pgd"], order, (1, 3))
        assert found[k] == pytest.approx(stats.spearmanr(one, other).statistic)


# What the test images resolve


def shares(differences, examples=500):
    """Clean errors of classic, and of none, which are these many images of 500 apart by seed."""
    rows = [
        {"augmentation": name, "p": float(p), "seed": seed, "measure": "clean error",
         "examples": examples, "value": 0.1 + p * number / 500}
        for seed, number in enumerate(differences)
        for name, p in (("none", 0), ("classic", 1))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("images", "sign"), [(0, 0), (1, 0), (-1, 0), (5, 0), (6, 1), (-6, -1), (20, 1)]
)
def test_no_fewer_than_six_images_decide_however_often_they_repeat(images, sign):
    """McNemar's test where all of b images speak for one side: the binomial's 2 / 2^b."""
    found = versus(shares([images] * 3), "classic", "none")
    assert found.sign == sign
    assert found.low < found.value < found.high
    assert found.p == pytest.approx(stats.binomtest(abs(images), max(1, abs(images))).pvalue
                                    if images else 1)  # fmt: skip
    # Of ten times as many test images the same share is ten times as many images.
    assert versus(shares([1] * 3, 5000), "classic", "none").sign == 1


def test_the_least_change_of_a_reading():
    one = shares([0, 0])
    assert grain(one) == 1 / 500
    assert grain(one.assign(measure="log ratio")) == verdicts.ROUNDING
    other = one.assign(measure="mean distance", value=[0.0, -20.0, 3.0, 7.0])
    assert grain(other) == pytest.approx(20 * verdicts.ROUNDING)


@given(level=st.floats(1e-3, 1e3), digits=st.lists(st.integers(-3, 3), min_size=4, max_size=4))
def test_distances_that_part_in_the_last_digits_decide_nothing(level, digits):
    rows = shares([0, 0]).assign(measure="mean distance")
    rows["value"] = [level * (1 + 1e-8 * k) for k in digits]
    assert versus(rows, "classic", "none").sign == 0


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
