"""Exact laws against enumeration and closed forms; the theorem of chapter 1 on random instances."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.augmentation.law import (
    Law,
    certainly,
    compose,
    decide,
    dominates,
    example_by_example,
    independent,
    marginals,
    mixup,
    power,
    product,
    push,
    uniform,
    with_probability,
)

HALF = Fraction(1, 2)
BITS = (0, 1)
FAIR = uniform(BITS)
PAIRS = list(itertools.product(BITS, BITS))  # two bits, or an image and a label true or wrong
TRUE = uniform([(0, 0), (1, 1)])
SAMPLES = list(itertools.product(PAIRS, repeat=2))

identity = certainly(lambda sample: sample)
xor = certainly(lambda sample: (sample[0], sample[0] ^ sample[1]))
copies = certainly(lambda sample: (sample[0], sample[0]))
units = st.sampled_from(["example", "batch"])
shares = st.fractions(0, 1, max_denominator=5)


def laws(outcomes, least=1):
    """Laws on some of the outcomes, at least the first `least` of them."""
    always = st.fixed_dictionaries({one: st.integers(1, 3) for one in outcomes[:least]})
    more = st.dictionaries(st.sampled_from(outcomes), st.integers(1, 3), max_size=2)
    return st.builds(lambda a, b: uniform((Counter(a) + Counter(b)).elements()), always, more)


def tables(inputs, values):
    """Random functions, each input's law from the strategy `values`."""
    return st.fixed_dictionaries(dict.fromkeys(inputs, values)).map(lambda table: table.get)


def noise(*ones):
    """Independent bits, each 1 with the given probability, whatever the sample."""
    out = product([Law({0: 1 - one, 1: one}) for one in ones])
    return lambda sample: out


def each(function):
    return certainly(lambda sample: tuple(function(*example) for example in sample))


def mean(law, value):
    return sum(p * value(outcome) for outcome, p in law.items())


# ------------------------------------------------------------------------------------ laws


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ({}, "got 0 for 0 outcomes"),
        ({0: HALF, 1: Fraction(1, 3)}, "sum 1, got 5/6"),
        ({0: Fraction(3, 2), 1: -HALF}, "got Fraction(-1, 2) for 1"),
        ({0: Fraction(1), 1: Fraction(0)}, "got Fraction(0, 1) for 1"),
        ({0: 0.5, 1: 0.5}, "got 0.5 for 0"),
    ],
)
def test_what_is_no_law(probabilities, said, refuses):
    refuses(lambda: Law(probabilities), said)


@pytest.mark.parametrize("p", [Fraction(-1, 3), Fraction(4, 3), 0.3])
def test_p_is_an_exact_probability(p, refuses):
    refuses(lambda: with_probability(identity, p, "example"), "a probability must be a Fraction")


def test_unknown_unit(refuses):
    refuses(lambda: with_probability(identity, HALF, "epoch")((0, 1)), "per must be", "'epoch'")
    refuses(lambda: mixup(FAIR, "epoch")((0, 1)), "per must be", "'epoch'")


def test_nothing_drawn_uniformly(refuses):
    refuses(lambda: uniform([]), "0 outcomes")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(1, 3))
def test_push_is_counting_equally_likely_cases(values, s):
    cases = Counter(sum(case) % 3 for case in itertools.product(values, repeat=s))
    found = push(certainly(lambda sample: sum(sample) % 3), power(uniform(values), s))
    assert found == {one: Fraction(n, len(values) ** s) for one, n in cases.items()}


@given(laws(PAIRS), *[tables(PAIRS, laws(PAIRS)) for _ in "ABC"])
def test_composition(law, A, B, C):
    assert push(identity, law) == law
    assert push(compose(A, B), law) == push(A, push(B, law))
    assert sum(push(compose(A, B), law).values()) == 1
    for sample in PAIRS:
        assert compose(A, identity)(sample) == A(sample) == compose(identity, A)(sample)
        assert compose(compose(A, B), C)(sample) == compose(A, compose(B, C))(sample)


@given(st.lists(laws([0, 1, 2]), min_size=1, max_size=3))
def test_a_product_is_independent_and_has_its_marginals(factors):
    joint = product(factors)
    assert marginals(joint) == factors
    assert independent(joint)
    for outcome, p in joint.items():
        assert p == mean(joint, lambda other, outcome=outcome: other == outcome)


@given(laws(PAIRS), laws(PAIRS))
def test_independence_and_domination_by_events(law, other):
    subsets = [(), (0,), (1,), (0, 1)]
    probability = {
        (D, E): mean(law, lambda ab, D=D, E=E: ab[0] in D and ab[1] in E)
        for D in subsets
        for E in subsets
    }
    assert independent(law) == all(
        p == probability[D, BITS] * probability[BITS, E] for (D, E), p in probability.items()
    )
    events = [D for n in range(5) for D in itertools.combinations(PAIRS, n)]
    assert dominates(law, other) == all(
        mean(law, D.__contains__) > 0 for D in events if mean(other, D.__contains__) > 0
    )


def test_independent_means_mutually():
    law = push(certainly(lambda ab: (*ab, ab[0] ^ ab[1])), power(FAIR, 2))
    for i, j in itertools.combinations(range(3), 2):
        assert independent(push(certainly(lambda abc, i=i, j=j: (abc[i], abc[j])), law))
    assert not independent(law)


# -------------------------------------------------------------------------- random functions


@given(tables(BITS, laws([0, 1, 2])), tables(BITS, laws([0, 1, 2])))
def test_example_by_example(first, second):
    A = example_by_example([first, second])
    for a, b in PAIRS:
        assert A((a, b)) == {
            (x, y): first(a)[x] * second(b)[y] for x in first(a) for y in second(b)
        }
    with pytest.raises(ValueError, match="shorter"):
        A((0,))


@given(tables(PAIRS, laws(PAIRS)), shares, units)
def test_with_probability(A, p, per):
    sometimes = with_probability(A, p, per)
    for sample in PAIRS:
        expected = Counter()
        for coins in itertools.product((True, False), repeat=2 if per == "example" else 1):
            for out, q in A(sample).items():
                for heads in coins:
                    q *= p if heads else 1 - p
                both = coins if per == "example" else coins * 2
                chosen = (
                    new if heads else old for heads, new, old in zip(both, out, sample, strict=True)
                )
                expected[tuple(chosen)] += q
        assert sometimes(sample) == {out: q for out, q in expected.items() if q}
        if p in (0, 1):
            assert sometimes(sample) == (A if p else identity)(sample)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3), laws([Fraction(n, 4) for n in range(5)])
)
def test_mixup(sample, weight):
    s = len(sample)
    batch, example = Counter(), Counter()
    orders = list(itertools.permutations(range(s)))
    for (w, q), order in itertools.product(weight.items(), orders):
        out = tuple(w * sample[i] + (1 - w) * sample[j] for i, j in enumerate(order))
        batch[out] += q / len(orders)
    for i, (w, q), j in itertools.product(range(s), weight.items(), range(s)):
        example[i, w * sample[i] + (1 - w) * sample[j]] += q / s
    assert mixup(weight, "batch")(tuple(sample)) == batch
    assert marginals(mixup(weight, "example")(tuple(sample))) == [
        {out: q for (at, out), q in example.items() if at == i} for i in range(s)
    ]
    assert independent(mixup(weight, "example")(tuple(sample)))


def test_mixup_blends_labels_as_images():
    law = mixup(uniform([Fraction(1, 4)]), "batch")(((0, 1), (1, 0)))
    quarter, rest = Fraction(1, 4), Fraction(3, 4)
    assert law == {((0, 1), (1, 0)): HALF, ((rest, quarter), (quarter, rest)): HALF}


# ------------------------------------------------------------------------------ the definition


@pytest.mark.parametrize(
    ("A", "holds"),
    [
        (identity, (True, True, True)),
        (each(lambda x, y: (HALF, y)), (True, True, False)),
        (with_probability(each(lambda x, y: (HALF, y)), HALF, "example"), (True, True, True)),
        (with_probability(each(lambda x, y: (HALF, y)), HALF, "batch"), (False, False, True)),
        (each(lambda x, y: (0, y)), (True, True, False)),
        (each(lambda x, y: (1 - x, y)), (True, True, True)),
        (copies, (False, True, True)),
        (lambda sample: uniform([((0, 0),) * 2, ((1, 1),) * 2]), (False, False, True)),
        (certainly(lambda sample: (sample[0],)), (True, True, True)),
    ],
    ids=["identity", "constant", "coins", "one coin", "forgets", "wrong", "copies", "noise", "one"],
)
def test_decisions(A, holds):
    found = decide(A, TRUE, 2)
    names = ("independent", "independent given S", "dominates")
    assert tuple(found[name] for name in names) == holds
    assert found["augmentation"] == (holds[0] and holds[2])


def test_images_decide_domination_and_pairs_independence():
    hidden = certainly(lambda sample: tuple((x, sample[0][1]) for x, _ in sample))
    found = decide(hidden, TRUE, 2)  # images as before, all with the first one's label
    assert found["dominates"]
    assert not found["independent"]


@given(st.fractions(0, 1, max_denominator=5).filter(bool), units, st.integers(2, 3), shares)
def test_mixup_is_independent_given_the_sample_at_most(p, per, s, weight):
    """Two examples differ with positive probability, and weight < 1 blends them."""
    weight = uniform([min(weight, Fraction(4, 5)), HALF])
    assert decide(with_probability(mixup(weight, per), p, per), TRUE, s) == {
        "independent": False,
        "independent given S": per == "example",
        "dominates": True,
        "augmentation": False,
    }


@given(shares.filter(bool), shares, st.integers(2, 3))
def test_what_outputs_of_mixup_per_example_have_in_common(p, w, s):
    """Covariance c (2 - c) Var / s with c = p (1 - w); distance from independence <= (2p + p^2)/s.

    E[out_i | S] = (1 - c) s_i + c mean(S), and the outputs are independent given S.
    """
    A = with_probability(mixup(uniform([w]), "example"), p, "example")
    two = push(certainly(lambda out: out[:2]), push(A, power(FAIR, s)))
    one, other = (mean(law, Fraction) for law in marginals(two))
    c = p * (1 - w)
    assert mean(two, lambda ab: ab[0] * ab[1]) - one * other == c * (2 - c) / 4 / s
    apart = product(marginals(two))
    assert sum(abs(q - two.get(out, 0)) for out, q in apart.items()) / 2 <= (2 * p + p**2) / s


# ------------------------------------------------------------------- the lemma and the theorem


def test_the_lemma_on_two_bits():
    """24 permutations; 16 of them make an exclusive or, which 6 of the 9 noises turn dependent."""
    maps = [
        certainly(dict(zip(PAIRS, values, strict=True)).get)
        for values in itertools.product(PAIRS, repeat=4)
    ]
    good = [A for A in maps if decide(A, FAIR, 2)["augmentation"]]
    assert len(good) == 24
    quarters = [Fraction(n, 4) for n in (1, 2, 3)]
    noises = [noise(a, b) for a in quarters for b in quarters]
    assert all(decide(B, FAIR, 2)["augmentation"] for B in noises)
    kept = [decide(compose(A, B), FAIR, 2)["augmentation"] for A in good for B in noises]
    assert kept.count(False) == 16 * 6


def test_the_lemma_fails_given_the_sample_too():
    A, B = copies, noise(HALF, HALF)
    for one in (A, B):
        found = decide(one, FAIR, 2)
        assert found["independent given S"]
        assert found["dominates"]
    assert not decide(compose(A, B), FAIR, 2)["independent given S"]


@given(shares.filter(lambda a: a not in (0, 1)), shares.filter(lambda b: b not in (0, 1)))
def test_exclusive_or_of_noise(a, b):
    """It keeps the first bit's independence of the second only if that one is fair."""
    assert decide(xor, FAIR, 2)["augmentation"]
    assert decide(compose(xor, noise(a, b)), FAIR, 2)["augmentation"] == (b == HALF)


true_first = [(0, 0), (1, 1), (0, 1), (1, 0)]
dominating = laws(true_first, least=2)  # of pairs: it dominates TRUE
some_pairs = st.tuples(laws(PAIRS), laws(PAIRS)).map(product)


@given(tables(SAMPLES, laws(SAMPLES)), st.data())
def test_first_half_of_the_theorem(A, data):
    # Independent pairs in two ways: of the sample, example by example, and of noise.
    B = data.draw(
        st.one_of(
            st.tuples(*[tables(PAIRS, dominating)] * 2).map(example_by_example),
            st.tuples(dominating, dominating).map(lambda both: lambda _: product(both)),
        )
    )
    # A coin lets A dominate.
    A = with_probability(A, HALF, data.draw(units))
    BS = push(B, power(TRUE, 2))
    assert independent(BS)
    assert all(dominates(pair, TRUE) for pair in marginals(BS))
    assert dominates(BS, power(TRUE, 2))
    assert decide(A, TRUE, 2)["dominates"]
    assert decide(compose(A, B), TRUE, 2)["dominates"]


@given(
    st.tuples(*[tables(PAIRS, laws(PAIRS))] * 2).map(example_by_example),
    tables(SAMPLES, some_pairs),
)
def test_second_half_of_the_theorem(A, B):
    assert decide(B, TRUE, 2)["independent given S"]
    assert decide(compose(A, B), TRUE, 2)["independent given S"]


@given(
    st.tuples(*[tables(PAIRS, laws(PAIRS))] * 2).map(example_by_example),
    st.tuples(*[tables(PAIRS, dominating)] * 2).map(example_by_example),
)
def test_corollary(A, B):
    A = with_probability(A, HALF, "example")
    assert decide(A, TRUE, 2)["augmentation"]
    assert decide(compose(A, B), TRUE, 2)["augmentation"]


def test_first_half_needs_pairs_that_dominate():
    wrong = each(lambda x, y: (x, 1 - y))
    strict = each(lambda x, y: (x if x == y else HALF, y))
    assert decide(wrong, TRUE, 2)["augmentation"]
    assert decide(strict, TRUE, 2)["augmentation"]
    assert not decide(compose(strict, wrong), TRUE, 2)["dominates"]


def test_first_half_needs_independent_pairs():
    """Copies never show two different bits, which alone this A leaves as they are."""
    A = certainly(lambda ab: ab if ab[0] != ab[1] else (2, 2))
    assert all(dominates(bit, FAIR) for bit in marginals(push(copies, power(FAIR, 2))))
    assert decide(A, FAIR, 2)["dominates"]
    assert not decide(compose(A, copies), FAIR, 2)["dominates"]


def test_second_half_needs_both_hypotheses():
    tied = lambda sample: uniform([(0, 0), (1, 1)])  # noqa: E731
    assert decide(identity, FAIR, 2)["independent given S"]
    assert not decide(compose(identity, tied), FAIR, 2)["independent given S"]
    assert decide(noise(HALF, HALF), FAIR, 2)["independent given S"]
    assert not decide(compose(copies, noise(HALF, HALF)), FAIR, 2)["independent given S"]
