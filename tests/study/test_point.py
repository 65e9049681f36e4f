"""The study end to end, on a few digits and, through the profiles for a GPU, on CIFAR-10."""

import copy
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lib import data, records
from lib.study import point as study
from lib.study import trained
from lib.study.index import Index, generator_file, record_file, record_folder
from lib.study.profile import Profile
from lib.study.sweep import collect

GAN = {"seed": 0, "steps": 12, "rounds": 3, "network": "dense", "width": 16, "critic_width": 16,
       "latent": 4, "critic_steps": 1}  # fmt: skip


def small_profile(folder, base="digits", **changes):
    """A profile derived from a shipped one, small enough for seconds on a CPU."""
    settings = copy.deepcopy(vars(Profile.load(base))) | {"profile": "small"}
    del settings["name"], settings["subset"], settings["path"]
    changes = {
        "subset": [200, 60], "training.epochs": 2, "measures.performance.steps": [1, 4],
        "measures.stress.steps": 4, "measures.stress.neighbours": 8,
        "measures.influence.test_points": 20, "measures.influence.steps": 4,
        "measures.trust.left_out": 3, "measures.distances.steps": 2, "measures.checks.images": 20,
        "measures.checks.queries": 5, "measures.checks.restarts": 1,
        "grid.p": [0, 0.25, 1], "grid.seed": [0, 1], "grid.augmentation": ["classic", "mixup"],
        "augmentations.gan-ns": ["Generative", GAN | {"kind": "ns"}],
        "augmentations.gan-wgp": ["Generative", GAN | {"kind": "wgp"}],
    } | changes  # fmt: skip
    for where, value in changes.items():
        *above, name = where.split(".")
        section = settings
        for part in above:
            section = section[part]
        section[name] = value
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return Profile.load(path)


def recorded(profile, point):
    return not Index(profile).missing(point)


def files_of(profile, point):
    return sorted(record_folder(profile).glob(f"{point}.*.parquet"))


def frame_of(profile, point):
    """All rows that are recorded of a point, in the order of its files."""
    return pd.concat(map(records.read_file, files_of(profile, point)), ignore_index=True)


def run(profile, augmentation, p, seed=0, **more):
    point = profile.point(augmentation, p, seed)
    study.run(profile, point, progress=False, **more)
    return frame_of(profile, point)


def without_seconds(frame):
    return frame[frame.table != "cost"].reset_index(drop=True)


def same(one, other):
    pd.testing.assert_frame_equal(without_seconds(one), without_seconds(other), check_exact=True)


def weights(profile, augmentation, p, seed=0):
    model = trained.train_or_load(profile, profile.point(augmentation, p, seed), progress=False)
    return model.state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def files(folder, pattern):
    return sorted(path for path in Path(folder).rglob(pattern) if path.is_file())


STAGES = ("train", "performance", "distances", "stress", "influence")


def expected_rows(profile, p, checked):
    """The (table, settings) of a complete record, from the profile's settings alone."""
    trusted = [("trust", test) for test in ("clean", "adversarial")]
    trusted += [("cost", "trust")]
    signs = [("checks", kind) for kind in ("no gradient", "random outputs", "short of 1")]
    signs += [("checks", "missed")] * 4 * len(profile.measures["performance"]["eps"]) + [
        ("cost", "checks")
    ]
    tests = [("none", "gradient norm")]
    tests += [(test, method) for test in ("clean", "adversarial")
              for method in (profile.measures["influence"]["method"], "identity")]  # fmt: skip
    readings = ["groups", "pairs", "top"] + (["control"] if p else [])
    return (
        [("cost", stage) for stage in STAGES]
        + [("performance", "none", 0.0, 0)]
        + [("performance", "pgd", e, s) for e in profile.measures["performance"]["eps"]
           for s in profile.measures["performance"]["steps"]]
        + [("stress", "clean", "all", e) for e in profile.measures["stress"]["clean"]]
        + [("distances", "risk within")] * 31 + [("distances", "mean distance")]
        + [("distances", "quantile")] * 5
        + signs * checked
        + [("stress", "sphere", "all", e) for e in profile.measures["stress"]["sphere"]]
        + [("stress", "adversarial", group, e) for e in profile.measures["stress"]["adversarial"]
           for group in ("successful", "unsuccessful")]
        + [("influence", "misclassified", test) for test in ("clean", "adversarial")]
        + [("influence", reading, *test) for reading in readings for test in tests]
        + [("influence", f"{reading}, loss alone", *test) for reading in readings
           for test in tests[1:]]
        + [("influence", "augmented points")]
        + trusted * checked
    )  # fmt: skip


def rows_of(frame):
    columns = {
        "cost": ["stage"],
        "performance": ["attack", "eps", "steps"],
        "distances": ["measure"],
        "checks": ["measure"],
        "stress": ["centre", "group", "eps"],
        "influence": ["reading", "test", "method"],
        "trust": ["test"],
    }
    found = []
    for table, names in columns.items():
        for line in frame[frame.table == table].to_dict("records"):
            keys = [line[name] for name in names]
            if line["measure"] == "test points misclassified":
                keys = ["misclassified", line["test"]]
            if line["measure"] == "augmented points":
                keys = ["augmented points"]
            found.append((table, *keys))
    return found


# A record


@pytest.mark.parametrize(
    ("augmentation", "p", "seed"),
    [("none", 0, 0), ("none", 0, 1), ("classic", 0.25, 0), ("mixup", 1, 1)],
)
def test_run_writes_a_complete_record(house, tmp_path, augmentation, p, seed):
    house()
    profile = small_profile(tmp_path)
    point = profile.point(augmentation, p, seed)
    assert not recorded(profile, point)
    study.run(profile, point, progress=False)
    assert recorded(profile, point)
    frame = frame_of(profile, point)
    assert Counter(rows_of(frame)) == Counter(expected_rows(profile, p, checked=seed == 0))

    images = trained.dataset(profile)
    shared = {
        "profile": "small", "dataset": "digits", "network": "small_cnn",
        "augmentation": augmentation, "p": p, "seed": seed, "data": images.checksum[:12],
        "torch": torch.__version__,
    }  # fmt: skip
    for name, value in shared.items():
        assert (frame[name] == value).all(), name
    # Each measure has a file of its own, of its own version, and there is nothing else.
    measured = profile.measured(point)
    assert measured == [name for name in profile.measures
                        if seed == 0 or name not in ("checks", "trust")]  # fmt: skip
    for name in [*measured, "network"]:
        path = record_folder(profile) / f"{record_file(profile, point, name)}"
        own, version = records.read_file(path), profile.version(name, augmentation)
        assert {*zip(own.code, own.settings, strict=True)} == {version}
        assert set(own.table) == {*profile.tables(name), "cost"}
    assert len([*record_folder(profile).iterdir()]) == len(measured) + 1
    # The checksum is of the images that were used, not of the whole data set.
    assert images.checksum != data.load("digits").checksum
    cost = frame[frame.table == "cost"]
    assert (cost["value"] >= 0).all()
    shares = frame[frame.table.isin(["performance", "stress"])]
    assert shares["value"].dropna().between(0, 1).all()
    assert not records.results().exists()


def test_a_new_setting_of_a_measure_costs_only_that_measure(house, tmp_path, trainings):
    profile = small_profile(tmp_path)
    run(profile, "classic", 0.25)
    before = {path: path.stat() for path in files_of(profile, profile.point("classic", 0.25, 0))}
    trained_before = len(trainings)
    other = small_profile(tmp_path, **{"measures.stress.neighbours": 9})
    point = other.point("classic", 0.25, 0)
    assert Index(other).missing(point) == ["stress"]
    frame = run(other, "classic", 0.25)
    assert len(trainings) == trained_before
    assert {path: path.stat() for path in before} == before
    (new,) = set(files_of(other, point)) - set(before)
    assert set(records.read_file(new).table) == {"stress", "cost"}
    assert set(frame[frame.table == "stress"].neighbours) == {8, 9}


def test_the_distribution_of_influence_has_its_rows(house, tmp_path):
    profile = small_profile(tmp_path)
    frame = run(profile, "classic", 0.25)
    spread = frame[frame.table == "distribution"]
    keys = ["test", "method", "group", "q"]
    assert not spread.duplicated(keys).any()
    for _, part in spread.sort_values("q").groupby(keys[:3]):
        assert part["q"].tolist() == sorted({0.05, 0.25, 0.5, 0.75, 0.95})
        assert part["value"].is_monotonic_increasing
        assert (part["value"] >= 0).all()
    assert len(spread) == 5 * 2 * 5  # quantiles, real and augmented, tests with their methods
    sizes = spread.groupby("group")["examples"].unique()
    assert sum(size.item() for size in sizes) == 200
    at_zero = run(profile, "none", 0)
    assert set(at_zero[at_zero.table == "distribution"].group) == {"real"}


def test_a_record_does_not_depend_on_what_ran_before(house, tmp_path):
    profile = small_profile(tmp_path)
    house("alone")
    alone = run(profile, "mixup", 0.25)
    house("after")
    run(profile, "classic", 0.25)
    run(profile, "classic", 0.25, seed=1)
    torch.manual_seed(123)
    torch.rand(1000)
    same(run(profile, "mixup", 0.25), alone)
    same(run(profile, "mixup", 0.25), alone)  # from its checkpoint


def test_a_control_that_is_given_is_the_one_that_is_made(house, tmp_path):
    """The point notebook makes the control of a seed once and hands it to all its points."""
    profile = small_profile(tmp_path)
    house("made")
    made = {p: run(profile, "classic", p) for p in (0.25, 1)}
    house("given")
    control = trained.subject(profile, profile.point("none", 0, 0), progress=False)
    for p, wanted in made.items():
        same(run(profile, "classic", p, controls={0: control}), wanted)


def test_seeds_and_augmentations_make_different_records(house, tmp_path):
    profile = small_profile(tmp_path)
    found = [run(profile, *cell) for cell in
             [("none", 0, 0), ("none", 0, 1), ("classic", 1, 0), ("mixup", 1, 0)]]  # fmt: skip
    values = {tuple(without_seconds(frame)["value"].dropna()) for frame in found}
    assert len(values) == len(found)


def test_a_change_of_charts_trains_nothing(house, tmp_path, engine, trainings):
    profile = small_profile(tmp_path)
    point = profile.point("none", 0, 1)
    study.run(profile, point, progress=False)
    engine("book.charts")
    engine("book.build")
    assert recorded(profile, point)
    weights(profile, "none", 0, 1)
    assert len(trainings) == 1


# What counts as recorded


def test_a_record_of_other_code_or_settings_does_not_count(house, tmp_path, engine):
    profile = small_profile(tmp_path)
    point = profile.point("none", 0, 0)
    study.run(profile, point, progress=False)
    assert recorded(profile, point)
    assert not recorded(profile, profile.point("none", 0, 1))
    assert not recorded(profile, profile.point("classic", 0.25, 0))
    assert recorded(profile, profile.point("classic", 0, 0))  # the same point
    assert recorded(small_profile(tmp_path, **{"grid.seed": [0, 1, 2]}), point)
    for change in ({"training.epochs": 3}, {"subset": [200, 59]}):
        other = small_profile(tmp_path, **change)
        assert Index(other).missing(point) == other.measured(point)
    # What a measure builds on is part of its settings.
    changes = {
        ("stress.neighbours", 9): ["stress"],
        ("influence.eps", 0.25): ["influence", "trust"],
        ("performance.steps", (1, 5)): ["performance", "distances", "checks"],
    }
    for (name, value), measures in changes.items():
        value = list(value) if isinstance(value, tuple) else value
        other = small_profile(tmp_path, **{f"measures.{name}": value})
        assert sorted(Index(other).missing(point)) == sorted(measures)
    engine("stress")  # the code of one measure alone
    assert Index(profile).missing(point) == ["stress"]
    engine("training")
    assert Index(profile).missing(point) == profile.measured(point)


def test_a_record_stands_where_points_are_not_remade(house, tmp_path, engine):
    profile = small_profile(tmp_path, **{"sweep.remake": False})
    point = profile.point("none", 0, 0)
    assert not recorded(profile, point)
    study.run(profile, point, progress=False)
    assert recorded(profile, point)
    other = small_profile(tmp_path, **{"sweep.remake": False, "measures.stress.neighbours": 9})
    assert not recorded(other, point)  # another measure is another record
    engine("stress")
    assert recorded(profile, point)

    # The collected tables count as well, for their points and measures only.
    records.collect("small", files_of(profile, point))
    for path in files_of(profile, point):
        path.unlink()
    assert recorded(profile, point)
    assert not recorded(profile, profile.point("none", 0, 1))
    assert not recorded(profile, profile.point("classic", 0.25, 0))
    # But not where every point is to be of the code of now.
    assert "stress" in Index(small_profile(tmp_path)).missing(point)
    (records.results() / "small" / "influence.parquet").unlink()
    assert Index(profile).missing(point) == ["influence"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["truncated", "empty"],
)
@pytest.mark.parametrize("remake", [True, False])
def test_a_record_that_is_cut_off_is_named_and_made_again(house, tmp_path, capsys, damage, remake):
    profile = small_profile(tmp_path, **{"sweep.remake": remake})
    point = profile.point("classic", 0.25, 0)
    first = run(profile, "classic", 0.25)
    path = record_folder(profile) / f"{record_file(profile, point, 'stress')}"
    damage(path)
    capsys.readouterr()
    assert Index(profile).missing(point) == ["stress"]
    said = capsys.readouterr().err
    assert str(path) in said
    assert len(said.strip().splitlines()) == 1
    same(run(profile, "classic", 0.25), first)
    capsys.readouterr()
    assert recorded(profile, point)
    assert capsys.readouterr().err == ""


def empty_table(path):
    records.read_file(path).iloc[:0].to_parquet(path)


def of_another(path):
    """A file that was copied to the name of another point."""
    records.write(records.read_file(path).assign(seed=1), path)


@pytest.mark.parametrize(
    "damage",
    [lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), empty_table, of_another],
    ids=["foreign", "no rows", "of another point"],
)
def test_what_is_no_record_of_its_name_is_set_aside_when_it_is_collected(house, tmp_path, damage):
    profile = small_profile(tmp_path)
    point = profile.point("classic", 0.25, 0)
    first = run(profile, "classic", 0.25)
    path = record_folder(profile) / f"{record_file(profile, point, 'stress')}"
    damage(path)
    with pytest.raises(ValueError, match=path.name):
        collect(profile)
    assert not (records.results() / "small" / "stress.parquet").exists()
    assert len(records.read("small", "performance"))  # the others are collected
    assert Index(profile).missing(point) == ["stress"]
    same(run(profile, "classic", 0.25), first)
    collect(profile)
    assert len(records.read("small", "stress"))


def test_a_failed_write_keeps_the_records_that_are_there(house, tmp_path, monkeypatch):
    profile = small_profile(tmp_path)
    point = profile.point("none", 0, 0)
    write, written = records.tables.pq.write_table, []

    def full(*given, **more):
        written.append(given)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        write(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(records.tables.pq, "write_table", full)
        with pytest.raises(OSError, match="No space"):
            run(profile, "none", 0)
    before = {path: path.read_bytes() for path in files_of(profile, point)}
    assert len(before) == len([*record_folder(profile).iterdir()]) == 3  # no half file
    assert len(Index(profile).missing(point)) == len(profile.measures) - 2
    run(profile, "none", 0)
    assert {path: path.read_bytes() for path in before} == before
    assert recorded(profile, point)


# Subsets, and the profiles for a GPU on real images


def runs_through(profile):
    """One point of a profile derived from one for a GPU, p = 1 so that all pairs count."""
    started = time.monotonic()
    frame = run(profile, "classic", 1)
    assert Counter(rows_of(frame)) == Counter(expected_rows(profile, 1, checked=True))
    assert (frame.dataset == "cifar10").all()
    train, test = profile.subset
    assert set(frame[frame.table == "performance"].examples) == {test}
    ratios = frame[
        (frame.measure == "log ratio") & ~frame.reading.isin(["groups", "groups, loss alone"])
    ]
    assert ratios["examples"].between(30, train).all()
    assert ratios["value"].abs().lt(50).all()
    seconds = frame.loc[frame.table == "cost", "value"].sum()
    assert 0 < seconds <= time.monotonic() - started


def test_the_fast_gpu_profile_runs_on_cifar10(house, tmp_path, cifar):
    runs_through(small_profile(tmp_path, "cifar10", **{
        "subset": [64, 10], "training.epochs": 1, "measures.performance.steps": [1],
        "measures.stress.steps": 1, "measures.influence.steps": 1,
        "measures.influence.test_points": 10, "measures.stress.neighbours": 2,
    }))  # fmt: skip


# Generators


def generator_rows(profile, factor="gan-ns"):
    study.run_generator(profile, factor, progress=False)
    return records.read_file(record_folder(profile) / f"{generator_file(profile, factor)}")


def test_the_record_of_a_generator_is_complete_and_true(house, tmp_path):
    home = house()
    profile = small_profile(tmp_path, subset=[400, 300], **{"grid.augmentation": ["gan-ns"]})
    assert profile.generators() == ["gan-ns"]
    assert generator_file(profile, "gan-ns") not in Index(profile)
    frame = generator_rows(profile)
    assert generator_file(profile, "gan-ns") in Index(profile)
    assert (frame.table == "generators").all()
    distances = frame[frame.measure == "Frechet distance"]
    assert distances[["of", "step"]].values.tolist() == [
        ["test images", 0], *(["generated images", step] for step in (4, 8, 12))
    ]  # fmt: skip
    assert (distances.examples == 300).all()
    assert set(distances.features) == {"small_cnn"}

    # The floor, by an independent formula, from the features of the network at p = 0.
    model = trained.train_or_load(profile, profile.point("none", 0, 0), progress=False)
    images = trained.dataset(profile)
    with torch.no_grad():
        sets = [model.features(x.float() / 255).double().numpy()
                for x in (images.train_images, images.test_images)]  # fmt: skip
    (mean, cov), (mean_2, cov_2) = ((x.mean(0), np.cov(x.T)) for x in sets)
    roots = np.sqrt(np.linalg.eigvals(cov @ cov_2).real.clip(0)).sum()
    by_hand = ((mean - mean_2) ** 2).sum() + np.trace(cov + cov_2) - 2 * roots
    assert distances.value.iloc[0] == pytest.approx(by_hand, rel=1e-3)
    assert (distances.value.iloc[1:] > by_hand).all()  # twelve steps teach it little

    # The score is that of the network that saw generated images alone.
    only = trained.train_or_load(profile, profile.point("gan-ns", 1, 0), progress=False)
    with torch.no_grad():
        right = only(images.test_images.float() / 255).argmax(1) == images.test_labels
    score = frame[frame.measure == "classification accuracy score"]
    assert score.value.item() == pytest.approx(right.float().mean().item())
    assert len(files(home, "generators-*/gan-ns.png")) == 1


def test_a_distance_of_too_few_images_is_missing(house, tmp_path):
    house()
    frame = generator_rows(small_profile(tmp_path))
    assert frame[frame.measure == "Frechet distance"].value.isna().all()
    assert frame[frame.measure != "Frechet distance"].value.notna().all()


def test_a_point_with_a_generator_is_recorded(house, tmp_path):
    house()
    frame = run(small_profile(tmp_path), "gan-ns", 0.5)
    ratios = frame[(frame.measure == "log ratio") & (frame.reading == "groups")]
    assert 60 < ratios.examples.iloc[0] < 140  # of 200, each replaced with probability 1/2
    assert ratios.value.notna().all()
