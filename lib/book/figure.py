"""A chart that shows itself: to eyes, to those who cannot see it, with scripts and without.

In a notebook it is HTML with a picture, and PNG where HTML is missing. The book's `charts.js`
makes it interactive and draws it in the colours of the page's theme.
"""

import json
import re
from hashlib import sha256
from html import escape

import altair as alt
import vl_convert

from lib.book.show import in_base64, sentence

# A name has one colour and shape on all charts; what is grey is what the others are compared with.
# Told apart with any colour vision, at least 3:1 against a white and against a nearly black page.
GREY, BLUE, ORANGE = "#767676", "#0072B2", "#D55E00"
MARKS = {
    "none": (GREY, "circle"),
    "standard": (GREY, "circle"),
    "random signs": (GREY, "circle"),
    "classic": (BLUE, "square"),
    "mixup": (ORANGE, "triangle-up"),
    "gan-ns": ("#009E73", "diamond"),
    "gan-wgp": ("#C05A96", "cross"),
    "classic+mixup": ("#A8780A", "triangle-down"),
    "real": (GREY, "circle"),
    "augmented": ("#8A63D2", "square"),
    "above zero": (ORANGE, "triangle-up"),
    "below zero": (BLUE, "triangle-down"),
    "undecided": (GREY, "circle"),
    "all points": (GREY, "circle"),
    "predicted": (BLUE, "square"),
    "retrained": (ORANGE, "triangle-up"),
}
COLOURS = ("#2491B5", "#B5454A", "#6B8E23", "#8C6D5A")  # of other names,
SHAPES = ("triangle-right", "triangle-left", "wedge")  # and their shapes: twelve differ in one
_others = {}  # {name: its number}, in order of appearance: a page is one process

INK, FAINT = "#333333", "#CCCCCC"  # of the static picture; charts.js replaces them by the theme's
CONFIG = {
    "font": "sans-serif",
    "axis": {"labelColor": INK, "titleColor": INK, "tickColor": FAINT, "domainColor": FAINT,
             "gridColor": FAINT, "gridOpacity": 0.4, "labelFontSize": 12, "titleFontSize": 12,
             "titleFontWeight": "normal", "labelFlush": False, "labelOverlap": True},
    "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12},
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12,
               "titleFontWeight": "normal", "orient": "top", "columns": 5, "symbolSize": 80,
               "symbolOpacity": 1},
    "rule": {"color": INK},
    "text": {"color": INK},
    "view": {"stroke": None},
    "facet": {"spacing": 32},
    "padding": {"left": 5, "top": 5, "right": 16, "bottom": 5},  # a last label may stick out
}  # fmt: skip


class Figure:
    """An Altair chart and the sentence that says what it shows to those who cannot see it."""

    def __init__(self, chart, description):
        self.chart, self.description = chart, sentence(description)

    def spec(self):
        """The Vega-Lite specification as a dict, data included."""
        with alt.data_transformers.enable("default", max_rows=None):
            spec = self.chart.to_dict()
        if "facet" not in spec:  # `width` is then that of the whole, axes and all
            spec["autosize"] = {"type": "fit-x", "contains": "padding"}
        return spec | {"config": CONFIG, "background": None, "description": self.description}

    def _repr_mimebundle_(self, include=None, exclude=None):
        spec = self.spec()
        text = json.dumps(spec, allow_nan=False).replace("</", "<\\/")
        html = (
            f'<figure class="chart" role="img" aria-label="{escape(self.description)}"'
            f' style="margin:0"><script type="application/json">{text}</script>{drawn(spec)}'
            f"<figcaption>{escape(self.description)}</figcaption></figure>"
        )
        png = vl_convert.vegalite_to_png(spec | {"background": "white"}, scale=2)
        return {"text/html": html, "image/png": in_base64(png), "text/plain": self.description}


def drawn(spec):
    """The picture of a specification, SVG that is no wider than there is room."""
    svg = vl_convert.vegalite_to_svg(spec)
    # Clip paths of several pictures on a page must not bear the same name.
    mark = sha256(json.dumps(spec).encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|url\(#)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)


def marks(names):
    """{name: (colour, shape)}, the same on every chart of a page.

    The names of MARKS come first, in its order, then the others alphabetically.
    """
    names = set(names)
    known = {name: mark for name, mark in MARKS.items() if name in names}
    for name in sorted(names - known.keys()):
        i = _others.setdefault(name, len(_others))
        known[name] = COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]
    return known


def colours(names):
    """{name: colour} of `marks`."""
    return {name: colour for name, (colour, _) in marks(names).items()}
