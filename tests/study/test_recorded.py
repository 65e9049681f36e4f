import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from lib import checkpoint, records
from lib.study import recorded
from lib.study.grid import grid
from lib.study.profile import Profile
from lib.study.recorded import (
    completeness,
    coverage,
    header,
    label,
    missing,
    of_point,
    origins,
    overview,
    seconds,
    shelf,
    standing,
    studies,
    study,
)
from lib.study.settings import FOLDER
from tests.study.test_profile import SHIPPED

CIFAR, DIGITS = Profile.load("cifar10"), Profile.load("digits")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def settings(profile, table, stage, point):
    """The version of the settings that a row of now has."""
    measure = {"train": "network"}.get(stage, stage) if table == "cost" else table
    return profile.version(measure, point.augmentation)[1]


def rows(profile, points, *, code="c0de", stages=("train", "stress"), table="cost", **more):
    """Two rows of cost for each point: a second for training, two for the stress."""
    return pd.DataFrame(
        [
            {"profile": profile.name, **vars(point), "measure": "seconds", "stage": stage,
             "code": code, "settings": settings(profile, table, stage, point), "data": "d",
             "commit": "c1", "python": "3", "torch": "2", "device": "a device",
             "value": float(1 + k), "examples": 1} | more
            for point in points
            for k, stage in enumerate(stages)
        ]
    )  # fmt: skip


def record(profile, points, table="cost", **settings):
    frame = rows(profile, points, table=table, **settings)
    records.write(frame, records.results() / profile.name / f"{table}.parquet")
    return frame


def some(profile, seeds, ps):
    return [point for point in grid(profile) if point.seed in seeds and point.p in ps]


def test_a_label_names_data_network_and_epochs():
    assert label(CIFAR) == "CIFAR-10, resnet9, 24 epochs"
    assert label(Profile.load("cifar10-resnet50")).startswith("CIFAR-10, resnet50, ")
    assert label(DIGITS) == "digits, small_cnn, 20 epochs"
    assert len({label(Profile.load(name)) for name in SHIPPED}) == len(SHIPPED)


# What is there


def test_a_whole_grid_is_complete():
    frame = record(DIGITS, grid(DIGITS))
    assert completeness(DIGITS, frame) == "all 125 points of its grid, 5 seeds"
    assert missing(DIGITS, frame) == []
    found = coverage(DIGITS, frame)
    assert (found.recorded == 5).all()
    assert len(found) == 6 * 5
    assert "Missing" not in standing(shelf()[-1])


def test_the_first_points_of_a_study_have_no_interval():
    first = some(CIFAR, [0], [0, 0.5, 1])
    said = completeness(CIFAR, rows(CIFAR, first))
    assert said.startswith("13 of the 183 points of its grid (7 %), at 1 of 3 seeds")
    assert "no claim is decided" in said
    found = coverage(CIFAR, rows(CIFAR, first)).set_index(["augmentation", "p"]).recorded
    assert found["mixup", 0.5] == found["classic+mixup", 0] == 1
    assert found["mixup", 0.1] == 0
    assert found.sum() == 18  # p = 0 is shared, and shown for each
    left = missing(CIFAR, rows(CIFAR, first))
    assert len(left) == 170
    assert not set(left) & set(first)


def test_a_whole_grid_of_one_seed_has_no_interval_either():
    one = replace(DIGITS, grid=DIGITS.grid | {"seed": [3]})
    said = completeness(one, rows(one, grid(one)))
    assert said.startswith("all 25 points of its grid, 1 seed. One seed gives no interval")


@pytest.mark.parametrize(("more", "single"), [([], False), ([0.25, 0.1], True)])
def test_cells_with_a_single_seed_are_said(more, single):
    points = some(CIFAR, [0, 1], [0, 0.5]) + some(CIFAR, [0], more)
    said = completeness(CIFAR, rows(CIFAR, points))
    assert "at 2 of 3 seeds" in said
    assert ("one seed" in said) == single


def test_points_beside_the_grid_do_not_count():
    beside = [CIFAR.point("mixup", 0.35, 0), CIFAR.point("mixup", 0.5, 7)]
    frame = record(CIFAR, [CIFAR.point("none", 0, 0), *beside])
    assert completeness(CIFAR, frame).startswith("1 of the 183 points")
    (own,) = [one for one in shelf() if one.profile == CIFAR]
    assert "Beside the grid: 2." in standing(own)
    assert "Missing: 182." in standing(own)


def test_an_empty_table_has_nothing():
    nothing = pd.DataFrame(columns=records.CELL)
    assert missing(CIFAR, nothing) == grid(CIFAR)
    assert (coverage(CIFAR, nothing).recorded == 0).all()


def test_seconds_by_stage_and_of_the_whole_point():
    points = some(DIGITS, [0, 1], [0, 1])
    frame = rows(DIGITS, points)
    frame.loc[0, "value"] = 9.0
    found = seconds(frame).set_index("stage")
    assert list(found.index) == ["train", "stress", "whole point"]
    assert found.loc["train"].tolist() == [1, 9, len(points)]
    assert found.loc["whole point"].tolist() == [3, 11, len(points)]
    assert list(seconds(rows(DIGITS, points, stages=["influence", "train"])).stage) == [
        "train", "influence", "whole point",
    ]  # fmt: skip


def test_origins_count_the_points_of_each():
    one, other = grid(DIGITS)[:4], grid(DIGITS)[4:5]
    frame = pd.concat([rows(DIGITS, one), rows(DIGITS, other, commit="c2", device="another")])
    found = origins(frame).set_index("commit").points.to_dict()
    assert found == {"c1": 4, "c2": 1}
    here = of_point(frame, other[0])
    assert origins(here).to_dict("records") == [
        {"points": 1, "device": "another", "torch": "2", "engine": "c0de", "commit": "c2"}
    ]
    assert of_point(frame, DIGITS.point("mixup", 0.125, 0)).empty


def test_the_header_is_the_comment_that_a_profile_begins_with():
    for name in SHIPPED:
        words = header(name)
        assert words
        assert "#" not in words
        assert "profile:" not in words
    assert "Deviations from the talk" in header("cifar10")


# The shelf: every profile of the book, recorded or not


def test_what_is_not_recorded_is_said_with_what_it_takes():
    record(DIGITS, grid(DIGITS))
    found = shelf()
    assert [one.profile.name for one in found][-1] == "digits"
    assert {one.profile.name for one in found} == set(SHIPPED)
    for one in found[:-1]:
        said = standing(one)
        for part in (
            "No point of it is recorded",
            f"make sweep PROFILE={one.profile.name}",
            f"its {len(grid(one.profile))} points",
        ):
            assert part in said
        assert ("GPU" in said) == one.profile.sweep["compile"]
    assert "GPU" not in standing(found[-1])
    table = overview(found).set_index("profile")
    assert table.loc["digits", ["points", "recorded"]].tolist() == [125, 125]
    assert (table.drop("digits").recorded == 0).all()


def test_rows_of_another_version_are_named():
    both = [rows(DIGITS, grid(DIGITS)), rows(DIGITS, grid(DIGITS)[:3], code="0ther")]
    records.write(pd.concat(both), records.results() / "digits/cost.parquet")
    own = shelf()[-1]
    assert set(own["cost"].code) == {"c0de"}
    assert "3 of engine 0ther" in standing(own)


def test_a_profile_that_has_changed_since_is_said():
    record(CIFAR, some(CIFAR, [0], [0, 1]), settings="another")
    record(DIGITS, grid(DIGITS))
    by_name = {one.profile.name: one for one in shelf()}
    assert "the profile has changed" in standing(by_name["cifar10"]).lower()
    assert "changed" not in standing(by_name["digits"])


# The studies of a page


def test_photographs_come_first_and_the_words_name_every_study():
    record(DIGITS, grid(DIGITS))
    record(CIFAR, some(CIFAR, [0], [0, 0.5, 1]))
    found, words = studies(DIGITS, "cost")
    assert [one.label for one in found] == [label(CIFAR), label(DIGITS)]
    for one in found:
        assert f"**{one.label}**: {completeness(one.profile, one['cost'])}." in words
    assert "No study of photographs" not in words


def test_digits_alone_say_that_photographs_are_missing():
    record(DIGITS, grid(DIGITS))
    found, words = studies(DIGITS, "cost")
    assert [one.profile for one in found] == [DIGITS]
    assert "No study of photographs" in words
    assert "07_recorded" in words


def test_a_study_without_one_of_the_tables_is_left_out_and_said():
    record(DIGITS, grid(DIGITS))
    record(DIGITS, grid(DIGITS), table="stress")
    record(CIFAR, grid(CIFAR))
    found, words = studies(DIGITS, "cost", "stress")
    assert [one.profile for one in found] == [DIGITS]
    assert "- Profile cifar10 is left out: no stress recorded yet." in words.splitlines()
    assert "No study of photographs" not in words
    _, words = studies(DIGITS, "stress")  # a page that needs none of what there is
    assert "cifar10" not in words


def test_the_page_needs_its_own_study(refuses):
    record(CIFAR, grid(CIFAR))
    refuses(lambda: studies(DIGITS, "cost"), "make sweep PROFILE=digits", error=FileNotFoundError)


def test_what_cannot_be_read_is_left_out_and_said(results, refuses):
    record(DIGITS, grid(DIGITS))
    record(DIGITS, grid(DIGITS), table="stress")
    (results / "foreign").mkdir()
    (results / "foreign" / "cost.parquet").write_bytes(
        (results / "digits/cost.parquet").read_bytes()
    )
    (results / "cifar10").mkdir()
    (results / "cifar10" / "cost.parquet").write_bytes(b"no")
    found, words = studies(DIGITS, "cost")
    assert [one.profile for one in found] == [DIGITS]
    for name in ("foreign", "cifar10"):
        assert len(re.findall(rf"^- Profile {name} is left out: .*\.$", words, re.M)) == 1
    refuses(lambda: studies(CIFAR, "cost"), "cifar10", "damaged")


def test_two_studies_of_one_label_are_told_apart(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        (FOLDER / "digits.yaml").read_text().replace("profile: digits", "profile: mine")
    )
    mine = Profile.load(str(tmp_path / "mine.yaml"))
    for profile in (DIGITS, mine):
        record(profile, grid(profile))
    found, _ = studies(mine, "cost")
    labels = [one.label for one in found]
    assert len(set(labels)) == 2
    assert all(one.startswith(label(DIGITS)) for one in labels)


def test_left_out_rows_are_said_once_for_the_tables_that_share_them():
    for table in ("cost", "stress", "checks"):
        both = [rows(DIGITS, grid(DIGITS), table=table),
                rows(DIGITS, grid(DIGITS)[:3], table=table, code="0ther")]  # fmt: skip
        both = both[:1] if table == "checks" else both
        records.write(pd.concat(both), records.results() / "digits" / f"{table}.parquet")
    (line,) = study(DIGITS, "cost", "stress", "checks").lacks
    assert line.startswith("cost and stress: ")
    _, words = studies(DIGITS, "cost", "stress", "checks")
    assert "    - Cost and stress: " in words


def test_a_table_is_given_as_a_copy():
    record(DIGITS, grid(DIGITS))
    own = recorded.study(DIGITS, "cost")
    table = own["cost"]
    table["value"] = 0.0
    assert (own["cost"].value > 0).all()


def test_the_last_images_of_kept_generators(results):
    assert recorded.previews(CIFAR) == {}
    shown = {"gan-ns": 3, "gan-wgp": 5}
    for name, value in shown.items():
        images = torch.full((4, 10, 3, 32, 32), value - 1, dtype=torch.uint8)
        images[-1] = value
        file = f"{name}-{CIFAR.generator_version(name)}.safetensors"
        checkpoint.save(
            results / "cifar10" / "generators" / file, {"previews": {"images": images}}, {}, []
        )
    found = recorded.previews(CIFAR)
    assert list(found) == list(shown)
    assert all(images.shape == (10, 3, 32, 32) for images in found.values())
    assert all((found[name] == value).all() for name, value in shown.items())
    # Those of another recipe are not this study's.
    changed = {
        **CIFAR.augmentations,
        "gan-ns": ["Generative", {"kind": "ns", "steps": 1, "seed": 0}],
    }
    assert list(recorded.previews(replace(CIFAR, augmentations=changed))) == ["gan-wgp"]
