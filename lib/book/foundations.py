"""Charts of the foundations: measurements beside a theory, pictures of a plane, outputs by class.

They draw tables, as `charts` does, and are Figures as its charts are.
"""

import altair as alt
import numpy as np
import pandas as pd

from lib.book.charts import (
    AXIS,
    HEIGHT,
    PANEL,
    WIDTH,
    _axis,
    _legend,
    _panels,
    _wrapped,
    over_seeds,
)
from lib.book.figure import Figure, colours

BINS = 40
SCHEME = "viridis"  # told apart with any colour vision, and in grey


def beside_theory(measured, theory, x, *, y, description, line, x_title=None, facet=None, columns=2,
                  shared=True, format=".3f"):  # fmt: skip
    """Means over seeds with 95 % t-intervals as points, and what a theory says as lines.

    measured: columns `line`, `x`, seed, value and that named by `facet`; theory: the same without
    seed. Panels have an axis each unless `shared`. Hovering over a point shows its numbers,
    clicking the legend fades all others.
    """
    panels = [facet] if facet else []
    by = [*panels, line, x]
    points = over_seeds(measured, by)
    lines = theory[[*by, "value"]].rename(columns={"value": "mean"}).assign(source="theory")
    data = pd.concat([points.assign(source="measured"), lines], ignore_index=True)
    colour, shape, picked, bright = _legend(data[line])
    base = alt.Chart().encode(alt.X(f"{x}:Q", title=x_title or x), color=colour)
    height = alt.Y("mean:Q", title=_wrapped(y, 40), scale=alt.Scale(zero=False), axis=_axis(format))
    hover = [alt.Tooltip(f"{name}:N") for name in [*panels, line]] + [alt.Tooltip(f"{x}:Q")]
    hover += [alt.Tooltip(f"{name}:Q", format=format) for name in ("mean", "low", "high")]
    theory, found = (base.transform_filter(f"datum.source === '{name}'") for name in
                     ("theory", "measured"))  # fmt: skip
    chart = alt.layer(
        theory.mark_line(strokeWidth=2).encode(height, opacity=bright(), order=f"{x}:Q"),
        found.mark_rule(strokeWidth=2).encode(alt.Y("low:Q"), y2="high:Q", opacity=bright()),
        found.mark_point(filled=True, size=50).encode(
            height, shape=shape, opacity=bright(), tooltip=[*hover, "seeds:Q"]
        ),
    ).add_params(picked)
    chart = _panels(chart, data, facet, columns)
    if facet and not shared:
        chart = chart.resolve_scale(y="independent")
        chart.spec.width = PANEL - AXIS  # each panel has an axis of its own to make room for
    return Figure(chart, description)


def plane(table, x, y, *, value, description, x_title=None, y_title=None, facet=None, columns=3,
          format=".3f", rule=None):  # fmt: skip
    """A picture: a tile for each row at `x` and `y`, whose colour is its `value`.

    The places must be evenly spaced in each panel. `rule` draws a dashed line at that y.
    """
    widths = {name: _step(table[name]) for name in (x, y)}
    data = table[[*([facet] if facet else []), x, y, value]].copy()
    for name, width in widths.items():
        data[f"{name}_from"], data[f"{name}_to"] = data[name] - width / 2, data[name] + width / 2
    domain = [[float(data[f"{n}_from"].min()), float(data[f"{n}_to"].max())] for n in (x, y)]
    tiles = alt.Chart().mark_rect()
    tiles = tiles.encode(
        alt.X(f"{x}_from:Q", title=x_title or x, scale=alt.Scale(domain=domain[0], nice=False)),
        alt.X2(f"{x}_to:Q"),
        alt.Y(f"{y}_from:Q", title=y_title or y, scale=alt.Scale(domain=domain[1], nice=False)),
        alt.Y2(f"{y}_to:Q"),
        alt.Color(
            f"{value}:Q", scale=alt.Scale(scheme=SCHEME), title=None,
            legend=alt.Legend(format=format, gradientLength=200),
        ),
        tooltip=[alt.Tooltip(f"{x}:Q"), alt.Tooltip(f"{y}:Q"),
                 alt.Tooltip(f"{value}:Q", format=format)],
    )  # fmt: skip
    layers = [tiles]
    if rule is not None:
        line = alt.Chart().mark_rule(strokeDash=[4, 4], color="white")
        layers.append(line.encode(y=alt.YDatum(rule)))
    chart = alt.layer(*layers)
    if facet is None:
        chart = chart.properties(data=data, width=WIDTH, height=HEIGHT)
        return Figure(chart, description)
    return Figure(_panels(chart, data, facet, columns, PANEL), description)


def outputs(table, *, x, y, description, name="class", facet=None, rule=None, columns=2):
    """Histograms of the column `value`, one over the other for each `name`, in shared bins.

    `rule` draws a line there: a decision boundary.
    """
    values = table.value.to_numpy()
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    rows = []
    for keys, part in table.groupby([*([facet] if facet else []), name], sort=False):
        counts, _ = np.histogram(part.value, edges)
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            row = dict(zip([*([facet] if facet else []), name], keys, strict=True))
            rows.append(row | {"from": low, "to": high, "count": int(count)})
    data = pd.DataFrame(rows)
    palette = colours(data[name].astype(str))
    scale = alt.Scale(domain=list(palette), range=list(palette.values()))
    bars = alt.Chart().mark_bar(opacity=0.6, binSpacing=0)
    bars = bars.encode(
        alt.X("from:Q", bin="binned", title=x),
        alt.X2("to:Q"),
        alt.Y("count:Q", title=y, stack=None),
        alt.Color(f"{name}:N", scale=scale, title=None),
        tooltip=[f"{name}:N", alt.Tooltip("from:Q", format=".2f"), "count:Q"],
    )
    layers = [bars]
    if rule is not None:
        layers.append(alt.Chart().mark_rule(strokeDash=[4, 4]).encode(x=alt.XDatum(rule)))
    return Figure(_panels(alt.layer(*layers), data, facet, columns), description)


def _step(column):
    places = np.unique(column)
    steps = np.diff(places)
    if not len(steps) or np.ptp(steps) > 1e-3 * steps.mean():
        raise ValueError(f"the places of {column.name} must be evenly spaced, at least two")
    return float(steps.mean())
