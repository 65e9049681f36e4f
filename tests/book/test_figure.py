"""Figures: names keep their colours, pictures keep out of each other's way."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lib.book.figure import GREY, MARKS, colours, drawn, marks

DOTS = {
    "data": {"values": [{"x": 1}]},
    "mark": {"type": "point", "clip": True},
    "encoding": {"x": {"field": "x", "type": "quantitative"}},
}


def test_pictures_on_one_page_bear_names_of_their_own():
    one, other = drawn(DOTS), drawn(DOTS | {"width": 100})
    names = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert all(names)
    assert names[0].isdisjoint(names[1])
    for svg, own in zip((one, other), names, strict=True):
        used = set(re.findall(r"url\(#([^)]+)\)", svg))
        assert used
        assert used <= own
        assert svg.startswith('<svg style="max-width:100%;height:auto"')


NAMES = ["none", "classic", "mixup", "gan-ns", "gan-wgp", "classic+mixup", "x", "a+b", "twins"]


@given(st.lists(st.sets(st.sampled_from(NAMES)), min_size=1))
def test_a_name_keeps_its_colour_and_shape_on_all_charts_of_a_page(charts):
    found = [marks(names) for names in charts]
    every = {name: mark for one in found for name, mark in one.items()}
    for names, one in zip(charts, found, strict=True):
        assert set(one) == names
        assert one.items() <= every.items()
        assert colours(names) == {name: colour for name, (colour, _) in one.items()}
    assert len(set(every.values())) == len(every)
    assert all(every[name] == MARKS[name] for name in every.keys() & MARKS.keys())


def test_what_others_are_compared_with_is_grey():
    grey = {name for name, (colour, _) in MARKS.items() if colour == GREY}
    assert grey == {"none", "standard", "random signs", "real", "undecided", "all points"}
