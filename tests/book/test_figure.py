"""Figures: names keep their colours, pictures keep out of each other's way."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lib.book.figure import PALETTE, colours, drawn

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


@given(st.sets(st.sampled_from(["none", "classic", "mixup", "gan-ns", "gan-wgp", "x", "a+b"])))
def test_a_name_keeps_its_colour(names):
    found = colours(names)
    assert set(found) == names
    assert len(set(found.values())) == len(names)
    for name in names & PALETTE.keys():
        assert found[name] == PALETTE[name]
    assert found == colours(sorted(names, reverse=True))
