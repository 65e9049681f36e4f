"""Charts of tidy records: each looks right on paper, on a phone, in the dark.

A table has one row per point and setting, with the columns augmentation, p, seed and value. A
chart is a Figure; tables and pictures stand beside it under the same roof.
"""

import textwrap

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from lib.book.figure import BLUE, GREY, Figure, colours, marks
from lib.book.show import finite, pictures, table

__all__ = ["Figure", "against", "against_p", "boundaries", "colours", "coverage", "distribution",
           "finite", "histogram", "intervals", "over_seeds", "pictures", "scatter",
           "table"]  # fmt: skip

DASHES = {"predicted": [6, 4]}
FADED = 0.1

WIDTH, PANEL, HEIGHT = 620, 240, 240  # pixels: a whole chart, one of several panels, and both
AXIS = 30  # pixels that an axis with its title takes
AXIS_P = "probability p of augmentation"
LETTERS = 60  # of a legend's names: more do not fit beside one another on a phone
FEW = 12  # places on an axis that are labelled each, and marked large


def over_seeds(table, by):
    """Mean of `value` over seeds with its 95 % t-interval: columns of `by`, mean, low, high, seeds.

    Rows without a value are left out; of a single seed low and high are missing. Raises ValueError
    if a seed has several rows in a group: they would be taken for several seeds.
    """
    twice = table[table.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        first = twice.groupby([*by, "seed"], dropna=False).ngroup() == 0
        varying = [name for name in twice if twice[first][name].nunique(dropna=False) > 1]
        raise ValueError(
            f"several rows for one seed: select one of each {', '.join(varying) or 'row'}"
            f" or give each a panel"
        )
    groups = table.groupby(by, dropna=False, sort=False)["value"]
    found = groups.agg(mean="mean", deviation="std", seeds="count").reset_index()
    half = stats.t.ppf(0.975, found.seeds - 1) * found.pop("deviation") / np.sqrt(found.seeds)
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)


def against_p(table, **settings):
    """`against` the column "p"; the rows of "none", the shared point p = 0, start every line."""
    return against(_shared_start(table, beside=True), "p", x_title=AXIS_P, **settings)


def against(table, x, *, y, description, line="augmentation", x_title=None, facet=None, columns=2,
            shared=True, rule=None, format=".3f"):  # fmt: skip
    """Mean over seeds with its 95 % t-interval against column `x`, a line for each augmentation.

    Columns: augmentation, or another that `line` names, `x`, seed, value and that named by `facet`
    (a panel for each of its values as they appear, `columns` side by side where there is room).
    `y` is the axis's title with its unit; panels with values of very different sizes have an axis
    each unless `shared`; `rule` draws a dashed line there. Intervals of shares, values in percent
    from 0 to 1 and without a `rule`, end there. Hovering over a point shows its numbers, clicking
    the legend fades all
    others but "none" (with shift: all but several).
    """
    panels = [facet] if facet else []
    data = over_seeds(table, [*panels, line, x])
    if format.endswith("%") and rule is None and table.value.dropna().between(0, 1).all():
        data[["low", "high"]] = data[["low", "high"]].clip(0, 1)
    colour, shape, picked, bright = _legend(data[line])
    places = sorted(set(data[x]))
    few = len(places) <= FEW
    ticks = alt.Axis(values=places, format=".6~g") if few else alt.Axis()
    base = alt.Chart().encode(alt.X(f"{x}:Q", title=x_title or x, axis=ticks), color=colour)
    mean = alt.Y("mean:Q", title=_wrapped(y, 40), scale=alt.Scale(zero=False), axis=_axis(format))
    hover = [alt.Tooltip(f"{name}:N") for name in [*panels, line]]
    hover += [alt.Tooltip(f"{x}:Q")]
    hover += [alt.Tooltip(f"{name}:Q", format=format) for name in ("mean", "low", "high")]
    # An area over a single place would be invisible.
    band = base.mark_area() if len(places) > 1 else base.mark_rule(strokeWidth=2)
    seen, unseen = (0.2, 0.02) if len(places) > 1 else (1, FADED)
    band = band.encode(alt.Y("low:Q"), y2="high:Q", opacity=bright(seen, unseen))
    points = base
    if x == "p" and (data[line] == "none").any():  # its dot is the shared one
        points = base.transform_filter("datum.p > 0 || datum.augmentation === 'none'")
    layers = [
        *([band] if data.low.notna().any() else []),  # one seed has no interval
        base.mark_line(strokeWidth=2).encode(mean, opacity=bright()),
        points.mark_point(filled=True, size=60 if few else 15).encode(
            mean, shape=shape, opacity=bright(), tooltip=[*hover, "seeds:Q"]
        ),
    ]
    if rule is not None:
        layers.append(_rule(y=alt.YDatum(rule)))  # not first: the first owns the legend's clicks
    chart = alt.layer(*layers).add_params(picked)
    chart = _panels(chart, data, facet, columns)
    if facet and not shared:
        chart = chart.resolve_scale(y="independent")
        chart.spec.width = PANEL - AXIS  # each panel has an axis of its own to make room for
    return Figure(chart, description)


def histogram(values, *, x, y, description, bins=30):
    """How many of `values` fall into each of `bins` equal bins, infinite ones into none."""
    values = np.asarray(values, float)
    counts, edges = np.histogram(values[np.isfinite(values)], bins)
    data = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "count": counts})
    chart = (
        alt.Chart(data)
        .mark_bar(color=BLUE, binSpacing=1)
        .encode(
            alt.X("from:Q", bin="binned", title=x),
            alt.X2("to:Q"),
            alt.Y("count:Q", title=y),
            tooltip=[
                alt.Tooltip("from:Q", format=".3f"),
                alt.Tooltip("to:Q", format=".3f"),
                "count:Q",
            ],
        )
    )
    return Figure(chart.properties(width=WIDTH, height=HEIGHT), description)


def scatter(table, *, x, y, description, colour="augmentation", x_title=None, y_title=None,
            hover=("augmentation", "p", "seed"), facet=None, columns=2, format=".3f"):  # fmt: skip
    """A point for each row at its columns `x` and `y`, coloured by the column `colour`.

    Hovering shows the columns `hover`, dragging a rectangle highlights the points inside, clicking
    the legend fades all others but what is grey (with shift: all but several).
    """
    table = table.assign(**{colour: table[colour].astype(str)})
    hue, shape, picked, bright = _legend(table[colour])
    brush = alt.selection_interval()
    shown = [alt.Tooltip(f"{name}:N") for name in hover if name in table]
    shown += [alt.Tooltip(f"{name}:Q", format=format) for name in (x, y)]
    chart = (
        alt.Chart()
        .mark_point(filled=True, size=60)
        .encode(
            alt.X(f"{x}:Q", title=x_title or x, scale=alt.Scale(zero=False), axis=_axis(format)),
            alt.Y(
                f"{y}:Q",
                title=_wrapped(y_title or y, 40),
                scale=alt.Scale(zero=False),
                axis=_axis(format),
            ),
            color=hue,
            shape=shape,
            opacity=bright(0.9, within=brush),
            tooltip=shown,
        )
        .add_params(picked, brush)
    )
    names = list(dict.fromkeys([x, y, colour, *hover, *([facet] if facet else [])]))
    data = table[[name for name in names if name in table]]
    return Figure(_panels(chart, data, facet, columns), description)


def boundaries(points, lines, *, x, y, description):
    """Points of two classes in a plane with straight decision boundaries through them.

    points: columns named `x` and `y`, which title the axes, "class", and "note", a word beside the
    points that have one. lines: columns "boundary", its name, and u, v, w of u x + v y + w = 0.
    """
    box = points[[x, y]].agg(["min", "max"])
    margin = 0.08 * (box.loc["max"] - box.loc["min"])
    sides = {name: [box[name]["min"] - margin[name], box[name]["max"] + margin[name]]
             for name in (x, y)}  # fmt: skip
    ends = pd.concat([_through(lines, side, sides[x], sides[y]) for side in (-1, 1)])
    ends = ends.rename(columns={"x": x, "y": y})
    across, up = (
        alt.X(f"{x}:Q", scale=alt.Scale(domain=sides[x], nice=False)),
        alt.Y(f"{y}:Q", scale=alt.Scale(domain=sides[y], nice=False)),
    )
    names, classes = colours(lines.boundary), colours(points["class"])
    dashes = alt.Scale(domain=list(names), range=[DASHES.get(name, [1, 0]) for name in names])
    dots = alt.Chart(points.rename(columns={"class": "name"})).encode(across, up)
    noted = dots.transform_filter("datum.note != ''")
    chart = alt.layer(
        alt.Chart(ends.rename(columns={"boundary": "name"}))
        .mark_line(strokeWidth=2.5, clip=True)
        .encode(
            across, up, color=_colour("name", names | classes),
            strokeDash=alt.StrokeDash("name:N", scale=dashes, legend=None),
        ),
        noted.mark_point(size=260, strokeWidth=2, color=GREY),
        dots.mark_point(filled=True, size=60).encode(
            color=_colour("name", names | classes),
            tooltip=["name:N", "note:N", f"{x}:Q", f"{y}:Q"],
        ),
        noted.mark_text(align="left", dx=14, fontSize=12).encode(text="note:N"),
    )  # fmt: skip
    return Figure(chart.properties(width=WIDTH, height=HEIGHT), description)


def _through(lines, side, *box):
    """A point of each line, beyond the box on this `side`."""
    reach = sum(max(map(abs, ends)) for ends in box)  # no point of the box is farther from 0
    length = np.hypot(lines.u, lines.v)
    u, v, w = lines.u / length, lines.v / length, lines.w / length
    return pd.DataFrame(
        {
            "boundary": lines.boundary,
            "x": -w * u - side * v * (reach + w.abs()),
            "y": -w * v + side * u * (reach + w.abs()),
        }
    )


def distribution(table, *, description, x="|I|", y="p", facet="test", columns=2):
    """Quantiles of real and of augmented points for each p, on a logarithmic axis.

    Columns: augmentation, p, seed, group ("real" or "augmented"), q (0.05, 0.25, 0.5, 0.75, 0.95),
    value and that named by `facet`, a panel for each of its values as they appear. The thin line
    spans 5 % to 95 %, the bar 25 % to 75 %, the tick is the median; each is the geometric mean over
    seeds, and zeros are drawn at the smallest positive value. A list below the chart selects the
    augmentation.
    """
    levels = {0.05: "q05", 0.25: "q25", 0.5: "q50", 0.75: "q75", 0.95: "q95"}
    panels = [facet] if facet in table else []
    by = [*panels, "augmentation", "p", "group"]
    table = _shared_start(table)
    table = table.assign(q=table.q.round(6).map(levels))
    floor = table.value[table.value > 0].min()
    table["value"] = np.log(table.value.clip(lower=floor))
    wide = table.pivot_table("value", [*by, "seed"], "q", sort=False)
    data = np.exp(wide.groupby(by, sort=False).mean()).reset_index()
    names = list(colours(data.augmentation))
    chosen = alt.param("augmentation", value=names[0],
                       bind=alt.binding_select(options=names, name="augmentation "))  # fmt: skip
    limits = [float(data.q05.min()), float(data.q95.max())]
    groups = colours(data.group)
    base = alt.Chart().encode(
        alt.Y("p:O", title=y),
        yOffset=alt.YOffset("group:N", sort=list(groups)),
        color=_colour("group", groups),
        tooltip=[*by, *(alt.Tooltip(f"{name}:Q", format=".2e") for name in levels.values())],
    )  # fmt: skip
    across = alt.X("q05:Q", title=x, scale=alt.Scale(type="log", domain=limits, nice=True),
                   axis=alt.Axis(format=".0e", tickCount=4, labelOverlap=True))  # fmt: skip
    chart = alt.layer(
        base.mark_bar(height=7).encode(alt.X("q25:Q"), x2="q75:Q"),
        base.mark_rule(strokeWidth=1.5).encode(across, x2="q95:Q"),
        base.mark_tick(thickness=2, size=7).encode(alt.X("q50:Q"), color=alt.value("white")),
    )
    chart = chart.transform_filter(alt.datum.augmentation == chosen).add_params(chosen)
    height = 20 + 34 * data.p.nunique()
    return Figure(_panels(chart, data, facet if panels else None, columns, height), description)


def intervals(table, *, description, x="effect", format=".3f", rule=0):
    """Effects with their intervals, a line for each row in the table's order; a rule at `rule`.

    Columns: label, value, low, high, verdict; value, low and high in the unit that `x` names. An
    interval without finite ends is not drawn.
    """
    data = table[["label", "value", "low", "high", "verdict"]].reset_index(drop=True)
    data["line"] = ["\n".join(textwrap.wrap(str(label), 26)) for label in data.label]
    hover = ["label:N", "verdict:N"]
    hover += [alt.Tooltip(f"{name}:Q", format=format) for name in ("value", "low", "high")]
    verdicts = colours(data.verdict)
    lines = alt.Axis(labelExpr="split(datum.label, '\\n')", labelLimit=0, grid=False, ticks=False)
    base = alt.Chart(data).encode(
        alt.Y("line:N", title=None, sort=None, axis=lines),
        color=_colour("verdict", verdicts),
        tooltip=hover,
    )
    chart = alt.layer(
        _rule(x=alt.XDatum(rule)),
        base.mark_rule(strokeWidth=2).encode(
            alt.X("low:Q", title=_wrapped(x, 32), axis=_axis(format)), x2="high:Q"
        ),
        base.mark_point(filled=True, opacity=1, size=80).encode(
            alt.X("value:Q"), shape=_shape("verdict", verdicts)
        ),
    )
    step = 14 + 14 * (1 + max(line.count("\n") for line in data.line))
    return Figure(chart.properties(width=WIDTH, height=step * len(data)), description)


def coverage(table, *, description):
    """How much of a grid is there: a square for each augmentation and p, filled by its share.

    Columns: augmentation, p, recorded and planned, both numbers of seeds.
    """
    data = table[["augmentation", "p", "recorded", "planned"]].assign(
        share=table.recorded / table.planned
    )
    places = alt.Axis(format=".6~g", labelAngle=0, labelOverlap=True)
    base = alt.Chart(data).encode(
        alt.X("p:O", title=AXIS_P, axis=places),
        alt.Y("augmentation:N", title=None, sort=None),
        tooltip=["augmentation:N", "p:O", "recorded:Q", "planned:Q"],
    )
    side = 300  # square pixels of a whole one
    frames = base.mark_point(
        shape="square", size=side, strokeWidth=1, color=GREY, fill="transparent"
    )
    filled = base.mark_point(shape="square", filled=True, opacity=1, strokeWidth=0).encode(
        alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, side]), legend=None),
        color=alt.value(BLUE),
    )
    height = 32 * data.augmentation.nunique()
    return Figure(alt.layer(filled, frames).properties(width=WIDTH, height=height), description)


def _shared_start(table, beside=False):
    """With the rows of "none" given to every augmentation: at p = 0 all are the same point.

    Those rows stay `beside` them, or where there is no other.
    """
    table = table.assign(augmentation=table.augmentation.astype(str))
    none = table.augmentation == "none"
    others = sorted(set(table.augmentation[~none]))
    starts = [table[none].assign(augmentation=name) for name in others]
    own = [table[none]] if beside or not others else []
    return pd.concat([table[~none], *starts, *own], ignore_index=True)


def _panels(chart, data, facet, columns, height=HEIGHT):
    if facet is None:
        return chart.properties(data=data, width=WIDTH, height=height)
    header = alt.Header(labelFontSize=12)
    if pd.api.types.is_numeric_dtype(data[facet]):
        header = alt.Header(labelExpr=f"'{facet} = ' + datum.value")
    field = alt.Facet(f"{facet}:N", title=None, sort=list(data[facet].unique()), header=header)
    chart = chart.properties(width=PANEL, height=height)
    return chart.facet(field, data=data, columns=columns)


def _colour(field, scale):
    legend = _columns(scale)
    scale = alt.Scale(domain=list(scale), range=list(scale.values()))
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=legend)


def _columns(names):
    """The legend of names, in fewer columns where they are too long for a phone."""
    return alt.Legend(columns=2) if sum(map(len, names)) > LETTERS else alt.Legend()


def _axis(format):
    """An axis in percent if the numbers are."""
    return alt.Axis(format="~%") if format.endswith("%") else alt.Axis()


def _shape(field, names):
    shapes = [shape for _, shape in marks(names).values()]
    scale = alt.Scale(domain=list(names), range=shapes)
    return alt.Shape(f"{field}:N", scale=scale, title=None, legend=_columns(names))


def _legend(column):
    """Colour and shape of a column's names, what a click on the legend picks, and the opacity.

    The opacity is a function of that of what is picked, or grey (and `within` a selection), and of
    that of the rest.
    """
    field, palette = column.name, colours(column)
    picked = alt.selection_point(name="picked", fields=[field], bind="legend")
    grey = [name for name, colour in palette.items() if colour == GREY]
    chosen = picked | alt.FieldOneOfPredicate(field=field, oneOf=grey)

    def bright(seen=1, unseen=FADED, within=None):
        condition = chosen if within is None else within & chosen
        return alt.when(condition).then(alt.value(seen)).otherwise(alt.value(unseen))

    return _colour(field, palette), _shape(field, palette), picked, bright


def _rule(**where):
    return alt.Chart(pd.DataFrame({"rule": [0]})).mark_rule(strokeDash=[4, 4]).encode(**where)


def _wrapped(title, width):
    return textwrap.wrap(title, width) or [""]
