import base64
import itertools
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from lib.book import charts
from lib.book.figure import COLOURS, MARKS


class Elements(HTMLParser):
    """The elements of an HTML text as (tag, attributes, text directly inside)."""

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        if tag != "img":
            self.open.append(self.found[-1])

    def handle_startendtag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def of(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def bundle(shown):
    return shown._repr_mimebundle_()


def rows_of(spec):
    return pd.concat([pd.DataFrame(rows) for rows in spec["datasets"].values()])


def png(data):
    image = Image.open(BytesIO(base64.b64decode(data)))
    image.load()
    return image


@pytest.fixture
def study():
    """Two augmentations at two p, three seeds, two eps, and the shared p = 0."""
    cells = [("none", 0.0), *itertools.product(("classic", "mixup"), (0.5, 1.0))]
    return pd.DataFrame(
        {
            "augmentation": a,
            "p": p,
            "seed": seed,
            "eps": eps,
            "value": eps + p * (a == "mixup") + 0.01 * seed,
        }
        for (a, p), seed, eps in itertools.product(cells, range(3), (0.25, 0.5))
    )


@pytest.fixture
def quantiles():
    groups = [("none", 0.0, "real"), ("mixup", 0.5, "real"), ("mixup", 0.5, "augmented")]
    levels = zip((0.05, 0.25, 0.5, 0.75, 0.95), (0.0, 1e-4, 1e-3, 1e-2, 1e-1), strict=True)
    return pd.DataFrame(
        {
            "augmentation": a,
            "p": p,
            "group": g,
            "seed": seed,
            "test": test,
            "q": q,
            "value": value * 10**seed,
        }
        for (a, p, g), seed, test, (q, value) in itertools.product(
            groups, range(2), ("clean", "adversarial"), list(levels)
        )
    )


@pytest.fixture
def effects():
    return pd.DataFrame(
        {
            "label": ["z", "a", "a sentence that takes more than a single line of the axis"],
            "value": [0.1, -0.2, np.nan],
            "low": [0.05, -0.3, -np.inf],
            "high": [0.2, -0.1, np.inf],
            "verdict": ["above zero", "below zero", "undecided"],
        }
    )


def cells():
    """Of three seeds in each cell none, one, two and three are there."""
    names, ps = ("classic", "classic+mixup"), (0, 0.1 + 0.2)
    return pd.DataFrame(
        {"augmentation": a, "p": p, "recorded": 2 * i + k, "planned": 3}
        for i, a in enumerate(names)
        for k, p in enumerate(ps)
    )


def plane(lines=((1, 2, -1), (-3, 0, 0.5), (0, 0.01, 0))):
    points = pd.DataFrame({"length": [-2.0, 0.0, 3.0], "width": [1.0, 0.0, -1.0]})
    points["class"], points["note"] = ["one", "other", "one"], ["", "left out", ""]
    names = ("all points", "predicted", "retrained")[: len(lines)]
    rows = [dict(zip("uvw", line, strict=True), boundary=name)
            for name, line in zip(names, lines, strict=True)]  # fmt: skip
    return points, pd.DataFrame(rows)


@pytest.fixture
def figures(study, quantiles, effects):
    sentence = "What the chart shows"
    wide = study.assign(other=study.value**2)
    return {
        "against_p": charts.against_p(study, y="risk", facet="eps", shared=False,
                                      description=sentence),
        "one panel": charts.against_p(study[study.eps == 0.5], y="risk", rule=0,
                                      format=".1%", description=sentence),
        "against": charts.against(study[study.p == 0.5], "eps", y="risk", description=sentence),
        "histogram": charts.histogram([0.1, 0.2, 0.2], x="distance", y="images",
                                      description=sentence),
        "scatter": charts.scatter(wide, x="value", y="other", description=sentence),
        "distribution": charts.distribution(quantiles, description=sentence),
        "intervals": charts.intervals(effects, description=sentence),
        "coverage": charts.coverage(cells(), description=sentence),
        "boundaries": charts.boundaries(*plane(), x="length", y="width", description=sentence),
    }  # fmt: skip


# What each chart shows of itself


def test_every_chart_is_described_pictured_and_specified(figures):
    for figure in figures.values():
        shown = bundle(figure)
        elements = Elements(shown["text/html"])
        ((attributes, _),) = elements.of("figure")
        assert attributes["class"] == "chart"
        assert attributes["role"] == "img"
        assert attributes["aria-label"] == shown["text/plain"] == "What the chart shows"
        ((attributes, text),) = elements.of("script")
        assert attributes["type"] == "application/json"
        assert json.loads(text) == json.loads(json.dumps(figure.spec()))
        (attributes, _) = elements.of("svg")[0]
        assert "viewbox" in attributes
        assert "max-width:100%" in attributes["style"]
        assert png(shown["image/png"]).width > 300


def test_no_chart_names_another_host(figures):
    for figure in figures.values():
        spec = {name: value for name, value in figure.spec().items() if name != "$schema"}
        assert "http" not in json.dumps(spec)


def test_a_description_cannot_leave_its_place(study):
    said = 'risk "rises" </script><b>& falls</b>'
    html = bundle(charts.against_p(study, y=said, facet="eps", description=said))["text/html"]
    elements = Elements(html)
    assert elements.of("figure")[0][0]["aria-label"] == said
    assert json.loads(elements.of("script")[0][1])["description"] == said
    assert not elements.of("b")


def test_two_charts_share_no_identifier(study):
    seen = set()
    for table in (study, study[study.p > 0]):
        figure = charts.scatter(table, x="p", y="value", description="d")
        elements = Elements(bundle(figure)["text/html"])
        own = {attributes["id"] for _, attributes, _ in elements.found if "id" in attributes}
        assert own
        assert not own & seen
        seen |= own


@pytest.mark.parametrize("description", ["", "  "])
def test_a_chart_without_description_is_refused(study, description, refuses):
    refuses(lambda: charts.scatter(study, x="p", y="value", description=description), "description")


# Means and intervals over seeds


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6, unique=True))
def test_interval_is_that_of_the_t_test(values):
    table = pd.DataFrame({"p": 0.5, "seed": range(len(values)), "value": values})
    found = charts.over_seeds(table, ["p"]).iloc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.seeds == len(values)


def test_one_seed_has_no_band(study):
    figure = charts.against_p(study.query("seed == 0"), y="y", facet="eps", description="d")
    data = rows_of(figure.spec())
    assert data["mean"].notna().all()
    assert data[["low", "high"]].isna().all(axis=None)
    assert (data.seeds == 1).all()
    bundle(figure)


@pytest.mark.parametrize(("seeds", "areas"), [(1, 0), (2, 1)])
def test_a_band_is_drawn_where_there_is_an_interval(study, seeds, areas):
    """Vega warns of a band without a single finite end."""
    table = study[study.seed < seeds]
    spec = charts.against_p(table, y="y", facet="eps", description="d").spec()
    marks = [layer["mark"]["type"] for layer in spec["spec"]["layer"]]
    assert marks.count("area") == areas
    assert marks.count("line") == 1


def test_an_interval_over_a_single_place_is_seen(study):
    """An area has no width there: a line from end to end stands for it."""
    table = study[study.p == 0.5]
    spec = charts.against_p(table, y="y", facet="eps", description="d").spec()
    marks = [layer["mark"]["type"] for layer in spec["spec"]["layer"]]
    assert "area" not in marks
    (line,) = [one for one in spec["spec"]["layer"] if one["mark"]["type"] == "rule"]
    assert (line["encoding"]["y"]["field"], line["encoding"]["y2"]["field"]) == ("low", "high")


def test_a_cell_is_filled_by_its_share():
    """By area: the size of a Vega mark is that of its square."""
    spec = charts.coverage(cells(), description="d").spec()
    assert rows_of(spec)["share"].tolist() == [0, 1 / 3, 2 / 3, 1]
    filled, frames = spec["layer"]
    assert filled["mark"]["filled"]
    scale = filled["encoding"]["size"]["scale"]
    assert (scale["domain"], scale["range"]) == ([0, 1], [0, frames["mark"]["size"]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "+0.50"), (np.inf, "–"), (-np.inf, "–"), (np.nan, "–"), (0, "+0.00")],
)
def test_an_infinite_bound_is_shown_as_missing(value, shown):
    frame = pd.DataFrame({"low": [value]})
    table = charts.table(frame, caption="c", formats={"low": charts.finite("+.2f")})
    assert f">{shown}</td>" in bundle(table)["text/html"]


def test_rows_that_are_no_seeds_are_not_averaged(study, refuses):
    refuses(lambda: charts.against_p(study, y="y", description="d"), "eps")


def test_missing_values_are_not_seeds(study):
    study.loc[study.seed == 2, "value"] = np.nan
    data = charts.over_seeds(study, ["augmentation", "p", "eps"])
    assert (data.seeds == 2).all()


def test_every_line_starts_at_the_shared_point(study):
    data = rows_of(charts.against_p(study, y="y", facet="eps", description="d").spec())
    assert set(data.augmentation) == {"none", "classic", "mixup"}
    starts = data[data.p == 0]
    assert len(starts) == 6
    for _, panel in starts.groupby("eps"):
        assert panel["mean"].nunique() == 1
    expected = study[study.augmentation == "none"].groupby("eps").value.mean()
    assert starts.groupby("eps")["mean"].first().to_dict() == pytest.approx(expected.to_dict())


def test_against_another_column_no_augmentation_has_a_line_of_its_own(study):
    table = study[study.p.isin([0, 0.5])]
    spec = charts.against(table, "eps", y="risk", description="Risk against eps").spec()
    (rows,) = spec["datasets"].values()
    drawn = {(row["augmentation"], row["eps"]): row["mean"] for row in rows}
    means = table.groupby(["augmentation", "eps"]).value.mean()
    assert drawn == pytest.approx(means.to_dict())


@given(st.lists(st.floats(0, 10) | st.just(math.inf), min_size=1), st.integers(1, 40))
def test_a_histogram_counts_what_is_finite(values, bins):
    chart = charts.histogram(values, x="distance", y="images", bins=bins, description="Distances")
    (rows,) = chart.spec()["datasets"].values()
    assert len(rows) == bins
    assert sum(row["count"] for row in rows) == sum(map(math.isfinite, values))
    for row in rows[:-1]:
        inside = [v for v in values if row["from"] <= v < row["to"]]
        assert row["count"] == len(inside)


def test_without_augmentation_alone_is_shown_as_such(study):
    only = study[study.augmentation == "none"]
    data = rows_of(charts.against_p(only, y="y", facet="eps", description="d").spec())
    assert set(data.augmentation) == {"none"}


def test_tables_are_left_as_they_were(study, quantiles, effects):
    before = study.copy(), quantiles.copy(), effects.copy()
    charts.against_p(study, y="y", facet="eps", description="d")
    charts.scatter(study, x="p", y="value", description="d")
    charts.distribution(quantiles, description="d")
    charts.intervals(effects, description="d")
    for old, new in zip(before, (study, quantiles, effects), strict=True):
        pd.testing.assert_frame_equal(old, new)


def scales(spec):
    """The scales of colour and shape anywhere in a specification, as {name: value}."""
    found = {"color": {}, "shape": {}}

    def walk(part):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if key in found and isinstance(value, dict) and "scale" in value:
                scale = value["scale"]
                found[key] |= dict(zip(scale["domain"], scale["range"], strict=True))
            if isinstance(value, dict | list):
                walk(value)

    walk(spec)
    return found


def test_a_mark_means_one_thing_on_all_charts(study, effects):
    """Whatever else is on a chart, and whichever study it is of."""
    parts = [study, study[study.augmentation != "classic"], study[study.p > 0]]
    drawn = [charts.against_p(one, y="y", facet="eps", description="d") for one in parts]
    drawn += [charts.scatter(one, x="p", y="value", description="d") for one in parts]
    drawn += [charts.intervals(effects[n:], description="d") for n in range(3)]
    for kind in ("color", "shape"):
        meanings = {}
        for figure in drawn:
            for name, mark in scales(figure.spec())[kind].items():
                assert meanings.setdefault(name, mark) == mark, (kind, name)
        assert set(meanings) == {"none", "classic", "mixup", *effects.verdict}


@given(
    st.sampled_from([".1%", ".3f"]),
    st.sampled_from([None, 0]),
    st.lists(st.floats(-0.5, 1.5) | st.floats(0, 1), min_size=3, max_size=3, unique=True),
)
def test_only_intervals_of_shares_end_at_0_and_100_percent(format, rule, values):
    table = pd.DataFrame({"augmentation": "classic", "seed": range(3), "value": values, "p": 1.0})
    both = pd.concat([table, table.assign(p=0.5)])
    shown = charts.against_p(both, y="y", format=format, rule=rule, description="d").spec()
    free = charts.over_seeds(table, ["p"]).iloc[0]
    share = format == ".1%" and rule is None and 0 <= min(values) <= max(values) <= 1
    ends = [free.low, free.high]
    expected = [min(max(end, 0), 1) for end in ends] if share else ends
    for _, row in rows_of(shown).dropna(subset="mean").iterrows():
        assert [row.low, row.high] == pytest.approx(expected)


# Colours


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    return np.dot(linear(colour), (0.2126, 0.7152, 0.0722))


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def test_colours_stand_out_from_both_pages():
    for colour in [*COLOURS, *(colour for colour, _ in MARKS.values())]:
        for page in ("#FFFFFF", "#121212"):
            light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, page)


# Distributions and effects


def test_quantiles_are_geometric_means_over_seeds_and_zeros_stay_drawable(quantiles):
    spec = charts.distribution(quantiles, description="d").spec()
    data = rows_of(spec)
    assert data.q50.to_numpy() == pytest.approx(1e-3 * 10**0.5)  # of 1e-3 and 1e-2
    assert (data.q05 > 0).all()
    assert (data[["q05", "q25", "q50", "q75", "q95"]].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    assert set(data.augmentation) == {"mixup"}
    assert set(data.p) == {0, 0.5}
    assert set(data.test) == {"clean", "adversarial"}


def test_a_distribution_can_be_chosen_for_each_augmentation(quantiles):
    more = quantiles[quantiles.p > 0].assign(augmentation="classic")
    spec = charts.distribution(pd.concat([quantiles, more]), description="d").spec()
    (chosen,) = [p for p in spec["params"] if "input" in p.get("bind", {})]
    assert chosen["bind"]["options"] == ["classic", "mixup"]
    assert chosen["value"] == "classic"


def test_effects_keep_their_order_and_need_no_finite_ends(effects):
    data = rows_of(charts.intervals(effects, description="d").spec()).dropna(subset="label")
    assert list(data.label) == list(effects.label)
    assert data.low.isna().tolist() == [False, False, True]


# Boundaries


@given(st.tuples(*[st.floats(-5, 5)] * 3).filter(lambda line: math.hypot(*line[:2]) > 0.01))
def test_a_boundary_crosses_the_whole_picture(line):
    """Both ends fulfil u x + v y + w = 0, and every point of the line between the axes is drawn."""
    u, v, w = line
    points, lines = plane([line])
    spec = charts.boundaries(points, lines, x="length", y="width", description="d").spec()
    ends = [
        row for rows in spec["datasets"].values() for row in rows if row["name"] == "all points"
    ]
    assert len(ends) == 2
    scale = 1 + abs(w) / math.hypot(u, v)
    for end in ends:
        assert abs(u * end["length"] + v * end["width"] + w) < 1e-9 * 100 * scale
        assert max(abs(end["length"]) / 4, abs(end["width"]) / 2) > 1  # beyond the axes
    # From one end to the other through the foot of the origin.
    foot = np.array([u, v]) * -w / (u * u + v * v)
    along = [np.dot(np.array([end["length"], end["width"]]) - foot, (-v, u)) for end in ends]
    assert along[0] < 0 < along[1]


def test_boundaries_names_what_is_seen():
    points, lines = plane()
    spec = charts.boundaries(points, lines, x="length", y="width", description="d").spec()
    assert set(rows_of(spec).name.dropna()) == {"all points", "predicted", "retrained", "one",
                                                "other"}  # fmt: skip
    line, *_ = spec["layer"]
    assert line["mark"]["clip"]
    for axis, name in (("x", "length"), ("y", "width")):
        low, high = line["encoding"][axis]["scale"]["domain"]
        assert low < points[name].min() < points[name].max() < high


# Pictures


def alts(shown):
    return [attributes["alt"] for attributes, _ in Elements(bundle(shown)["text/html"]).of("img")]


@given(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))
def test_pictures_show_the_images_bit_for_bit(n, c, h, w):
    images = np.random.default_rng(0).integers(0, 256, (n, c, h, w))
    html = bundle(charts.pictures(images / 255, description="d"))["text/html"]
    found = Elements(html).of("img")
    assert len(found) == n
    for (attributes, _), image in zip(found, images, strict=True):
        shown = np.asarray(png(attributes["src"].removeprefix("data:image/png;base64,")))
        np.testing.assert_array_equal(shown.reshape(h, w, c).transpose(2, 0, 1), image)


def test_every_picture_has_its_alternative_text():
    images = np.zeros((4, 1, 2, 2))
    assert alts(charts.pictures(images, titles=list("abcd"), description="d")) == list("abcd")
    assert alts(charts.pictures(images, description="d")) == ["d"] * 4
    matrix = charts.pictures(images, rows=["r", "s"], titles=["a", "b"], description="d")
    assert alts(matrix) == ["r, a", "r, b", "s, a", "s, b"]
    matrix = charts.pictures(images, rows=["r", "s"], titles=list("abcd"), description="d")
    assert alts(matrix) == ["r, a", "r, b", "s, c", "s, d"]


def test_the_contact_sheet_holds_every_image():
    images = np.zeros((6, 3, 5, 5))
    images[:, 0] = 1  # red
    for layout in ({}, {"columns": 4}, {"rows": ["one", "two"]}, {"titles": list("abcdef")}):
        sheet = png(
            bundle(charts.pictures(images, scale=3, description="d", **layout))["image/png"]
        )
        red = (np.asarray(sheet) == (255, 0, 0)).all(-1).sum()
        assert red == 6 * 15 * 15


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (np.zeros((2, 2, 4, 4)), {}, "[2, 2, 4, 4]"),
        (np.zeros((4, 4)), {}, "[4, 4]"),
        (np.full((1, 1, 2, 2), 1.5), {}, "[0, 1]"),
        (np.full((1, 1, 2, 2), np.nan), {}, "[0, 1]"),
        (np.zeros((3, 1, 2, 2)), {"rows": ["a", "b"]}, "3 images"),
        (np.zeros((3, 1, 2, 2)), {"titles": ["a"]}, "1 titles"),
    ],
)
def test_pictures_refuse_what_they_cannot_show(images, options, said, refuses):
    refuses(lambda: charts.pictures(images, description="d", **options), said)


# Tables


def test_a_table_shows_every_cell():
    frame = pd.DataFrame({"name": ["<b>", "x"], "value": [1 / 3, np.nan], "count": [7, 12345]})
    shown = bundle(charts.table(frame, caption="A & B", formats={"value": ".2f"}))
    elements = Elements(shown["text/html"])
    assert [text for _, text in elements.of("caption")] == ["A & B"]
    assert [text for _, text in elements.of("th")] == ["name", "value", "count"]
    assert all(attributes["scope"] == "col" for attributes, _ in elements.of("th"))
    cells = [text for _, text in elements.of("td")]
    assert cells == ["<b>", "0.33", "7", "x", "–", "12345"]
    assert all(cell in shown["text/plain"] for cell in cells)


def test_a_table_shows_its_index_when_asked():
    frame = pd.DataFrame({"value": [1, 2]}, index=pd.Index(["a", "b"], name="key"))
    cells = [text for _, text in Elements(
        bundle(charts.table(frame, caption="c", index=True))["text/html"]).of("td")]  # fmt: skip
    assert cells == ["a", "1", "b", "2"]


def test_formats_of_absent_columns_are_refused(refuses):
    frame = pd.DataFrame({"value": [1.0]})
    refuses(lambda: charts.table(frame, caption="c", formats={"valeu": ".1f"}), "valeu")


def test_charts_and_book_know_no_torch():
    code = "import sys, lib.book.charts, lib.book.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
