"""Charts of the foundations: what they draw is what the tables hold."""

import itertools

import numpy as np
import pandas as pd
import pytest

from lib.book import charts, foundations

TEXT = "What it shows"


def rows_of(figure):
    spec = figure.spec()
    return pd.concat([pd.DataFrame(rows) for rows in spec["datasets"].values()])


def drawn(figure):
    bundle = figure._repr_mimebundle_()
    assert "<svg" in bundle["text/html"]
    assert TEXT in bundle["text/html"]
    return bundle


def test_measurements_stand_beside_a_theory():
    rng = np.random.default_rng(0)
    measured = pd.DataFrame([
        {"rule": rule, "t": t, "seed": seed, "panel": panel, "value": t + rng.standard_normal()}
        for rule in ("a", "b") for t in range(3) for seed in range(4) for panel in ("x", "y")
    ])  # fmt: skip
    theory = measured[measured.seed == 0].assign(value=7.0)
    figure = foundations.beside_theory(
        measured, theory, "t", y="value", description=TEXT, line="rule", facet="panel"
    )
    found = rows_of(figure)
    points = found[found.source == "measured"].set_index(["panel", "rule", "t"])
    means = measured.groupby(["panel", "rule", "t"]).value.mean()
    assert np.allclose(points["mean"].sort_index(), means.sort_index())
    assert (points.low < points["mean"]).all()
    assert (points["mean"] < points.high).all()
    assert (found[found.source == "theory"]["mean"] == 7).all()
    drawn(figure)


def test_several_rows_of_a_seed_are_refused(refuses):
    table = pd.DataFrame({"rule": ["a", "a"], "t": [0, 0], "seed": [0, 0], "value": [1.0, 2.0],
                          "kind": ["u", "v"]})  # fmt: skip
    refuses(lambda: foundations.beside_theory(table, table, "t", y="v", description=TEXT,
                                              line="rule"), "kind")  # fmt: skip


@pytest.mark.parametrize("facet", [None, "when"])
def test_tiles_fill_the_plane(facet):
    table = pd.DataFrame([{"p": p, "e": e, "when": w, "value": p + e}
                          for p in (0.5, 0.6, 0.7) for e in (0.0, 0.5) for w in
                          (["now", "then"] if facet else ["now"])])  # fmt: skip
    figure = foundations.plane(
        table, "p", "e", value="value", description=TEXT, facet=facet, rule=0.2
    )
    found = rows_of(figure)
    found = found[found.p.notna()] if "p" in found else found
    assert len(found) == len(table)
    assert np.allclose(found.p_to - found.p_from, 0.1)
    assert np.allclose(found.e_to - found.e_from, 0.5)
    assert np.allclose((found.p_to + found.p_from) / 2, found.p)
    drawn(figure)


def test_uneven_places_are_refused(refuses):
    table = pd.DataFrame({"p": [0, 1, 3], "e": [0, 1, 2], "value": [1, 2, 3]})
    refuses(lambda: foundations.plane(table, "p", "e", value="value", description=TEXT), "p")


def test_outputs_count_every_value_once():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"class": ["3"] * 50 + ["7"] * 30, "value": rng.standard_normal(80),
                          "images": ["clean"] * 40 + ["attacked"] * 40})  # fmt: skip
    figure = foundations.outputs(
        table, x="output", y="images", facet="images", rule=0, description=TEXT
    )
    found = rows_of(figure)
    counts = found.groupby(["images", "class"])["count"].sum()
    assert counts.sum() == 80
    assert counts["attacked", "7"] == 30
    drawn(figure)


def test_a_line_may_stand_for_anything():
    places = itertools.product("ab", (0.0, 0.1), range(3))
    table = pd.DataFrame(places, columns=["attack", "eps", "seed"]).assign(value=0.2)
    figure = charts.against(table, "eps", line="attack", y="risk", description=TEXT)
    assert set(rows_of(figure).attack.dropna()) == {"a", "b"}
    drawn(figure)
