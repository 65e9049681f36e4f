import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import measures, records, runtime
from lib.measures import performance
from lib.study import point as study
from lib.study import runner, sweep, trained
from lib.study.grid import grid
from lib.study.index import Index, generator_file
from lib.study.profile import Profile
from lib.study.runner import run_points
from tests.study.test_point import frame_of, run, same, small_profile
from tests.test_runtime import graphs

NAMES = st.lists(st.sampled_from(["classic", "mixup", "classic+mixup"]), min_size=1, unique=True)


def done(profile):
    index = Index(profile)
    return [point for point in grid(profile) if not index.missing(point)]


# Which points


@given(
    augmentation=st.none() | NAMES,
    p=st.none() | st.lists(st.sampled_from([0, 0.25, 0.4, 1]), min_size=1, unique=True),
    seed=st.none() | st.lists(st.sampled_from([0, 3, 99]), min_size=1, unique=True),
)
def test_points_are_all_that_the_lists_name_those_of_the_grid_first(augmentation, p, seed):
    profile = Profile.load("digits")
    axes = profile.grid
    found = profile.points(augmentation, p, seed)
    wanted = {
        profile.point(a, q, s)
        for a in augmentation or axes["augmentation"]
        for q in (axes["p"] if p is None else p)
        for s in (axes["seed"] if seed is None else seed)
    }
    assert len(found) == len(wanted)
    assert set(found) == wanted
    on_grid = [point for point in grid(profile) if point in wanted]
    assert found[: len(on_grid)] == on_grid


def test_a_point_may_be_named_by_single_values():
    profile = Profile.load("digits")
    assert profile.points("classic", 0.5, 0) == [profile.point("classic", 0.5, 0)]
    assert profile.points() == grid(profile)


# Many points


def test_each_point_is_recorded_as_soon_as_it_is_done(house, tmp_path, monkeypatch, capsys):
    """A process that dies in the middle loses the point it is at, and no other."""
    profile = small_profile(tmp_path)
    points, rows = grid(profile)[:4], performance.rows

    def gone(subject, settings):
        if subject.point == points[2]:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return rows(subject, settings)

    house("one")
    monkeypatch.setattr(performance, "rows", gone)
    with pytest.raises(RuntimeError, match="CUDA"):
        run_points(profile, points, progress=False)
    assert done(profile) == points[:2]
    monkeypatch.setattr(performance, "rows", rows)
    capsys.readouterr()
    assert run_points(profile, points, progress=False) == []
    said = capsys.readouterr().out
    assert "4 points, 2 of them recorded already" in said
    assert [str(point) in said for point in points] == [False, False, True, True]
    made = [frame_of(profile, point) for point in points]
    house("other")
    for point, frame in zip(points, made, strict=True):  # alone, each gives the same
        same(run(profile, point.augmentation, point.p, point.seed), frame)


def test_what_another_process_makes_in_the_meantime_is_not_made_again(house, tmp_path, monkeypatch):
    profile = small_profile(tmp_path)
    points, made = grid(profile)[:2], []

    def and_the_next_one(profile, point, **_):
        made.append(point)
        for one in points:
            study.run(profile, one, progress=False)

    monkeypatch.setattr(runner, "run", and_the_next_one)
    assert run_points(profile, points, progress=False) == []
    assert made == points[:1]


def test_generators_are_judged_once_their_points_are_there(house, tmp_path):
    profile = small_profile(tmp_path, **{
        "grid.augmentation": ["gan-ns"], "grid.p": [0, 1], "grid.seed": [0],
        "sweep.remake": False,
    })  # fmt: skip
    first, second = grid(profile)
    run_points(profile, [first], progress=False)
    assert generator_file(profile, "gan-ns") not in Index(profile)
    run_points(profile, [first, second], progress=False)
    assert generator_file(profile, "gan-ns") in Index(profile)
    # What is kept outlives the runs: in a fresh checkout no generator is trained.
    kept = trained.kept_generator_path(profile, "gan-ns")
    assert kept.exists()
    before = trained.generator(profile, "gan-ns", progress=False)
    trained.generator_path(profile, "gan-ns").unlink()
    assert sweep.generator_seconds(profile, "gan-ns") == 0
    after = trained.generator(profile, "gan-ns", progress=False)
    assert after.digest() == before.digest()
    assert after.history == before.history


# A budget of time


class Made:
    """An index of points alone; of generators it has all."""

    def missing(self, point):
        return [] if point in self._points else ["all"]

    def __init__(self, points):
        self._points = points

    def __contains__(self, file):
        return True


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)`: time goes by in points alone, `seconds[point]` each; what is made."""

    def start(seconds, expected, generators=None):
        now, made, times = [0.0], [], dict(generators or {})

        def run(profile, point, **_):
            now[0] += seconds[point]
            made.append(point)

        monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(runner, "run", run)

        def trained(profile, factor, **_):
            now[0] += times.pop(factor, 0)

        monkeypatch.setattr(runner, "generator", trained)
        monkeypatch.setattr(runner, "Index", lambda profile: Made(made))
        monkeypatch.setattr(runner, "_expected", lambda profile: expected)
        monkeypatch.setattr(runner, "generator_seconds", lambda _, factor: times.get(factor, 0))
        return made, now

    return start


@pytest.mark.parametrize("budget", [60, 119, 120, 200, 365, 1e6])
@pytest.mark.parametrize("slow", [1, 3])
def test_a_budget_is_kept_where_no_point_is_slower_than_those_before(clock, budget, slow):
    profile = Profile.load("digits")
    points = grid(profile)[:9]
    seconds = dict.fromkeys(points, 60.0 * slow)
    made, now = clock(seconds, expected=60.0 * slow)
    if budget < 60 * slow:
        with pytest.raises(ValueError, match="nothing is begun") as caught:
            run_points(profile, points, hours=budget / 3600)
        assert f"{60 * slow} s" in str(caught.value)
        assert made == []
        return
    left = run_points(profile, points, hours=budget / 3600)
    fits = min(len(points), int(budget // (60 * slow)))
    assert made == points[:fits]
    assert left == points[fits:]
    assert now[0] <= budget
    assert run_points(profile, points) == []  # without a budget, the rest
    assert made == points


def test_a_slow_point_is_a_warning_for_the_next(clock):
    profile = Profile.load("digits")
    points = grid(profile)[:4]
    made, now = clock(dict.fromkeys(points, 50.0), expected=10.0)
    assert run_points(profile, points, hours=120 / 3600) == points[2:]
    assert now[0] == 100


def test_the_training_of_a_generator_is_no_warning_for_the_next_point(clock):
    """Eleven points of a second each, two of which need ten seconds of a generator, once."""
    profile = Profile.load("digits")
    points = grid(profile)[:11]
    made, now = clock(dict.fromkeys(points, 1.0), 1.0, {"gan-ns": 10, "gan-wgp": 10})
    assert run_points(profile, points, hours=31 / 3600) == []
    assert made == points
    assert now[0] == 31


def test_a_point_that_diverges_does_not_block_those_behind_it(house, tmp_path, monkeypatch):
    profile = small_profile(tmp_path)
    points, train = grid(profile)[:3], trained.training.train

    def diverging(model, dataset, augmentation, **settings):
        if "Mixup" in repr(augmentation):
            raise FloatingPointError("training diverged in epoch 0: the loss is nan")
        return train(model, dataset, augmentation, **settings)

    monkeypatch.setattr(trained.training, "train", diverging)
    order = [points[2], points[0], points[1]]
    assert str(order[0]).startswith("mixup")
    for _ in range(2):
        with pytest.raises(ValueError, match="1 points failed.*mixup.*diverged"):
            run_points(profile, order, progress=False)
        assert done(profile) == points[:2]


def test_a_generator_that_diverges_does_not_block_other_points(house, tmp_path, monkeypatch):
    profile = small_profile(tmp_path, **{"grid.seed": [0]})

    def diverging(*_, **__):
        raise FloatingPointError("GAN diverged at step 3")

    monkeypatch.setattr(trained.gan, "train_gan", diverging)
    points = profile.points(["gan-ns", "classic"], [1], 0)
    points.sort(key=lambda point: point.augmentation, reverse=True)
    with pytest.raises(ValueError, match="1 points failed.*gan-ns.*diverged"):
        run_points(profile, points, progress=False)
    assert [str(point) for point in done(profile)] == ["classic-p1-seed0"]


def test_without_a_gpu_no_point_of_a_profile_for_one_is_made(refuses):
    """A machine that has lost its GPU would else go on for days, and in another precision."""
    profile = Profile.load("cifar10")
    refuses(lambda: run_points(profile, grid(profile)[:1]), "cifar10", "GPU")


def test_points_whose_generator_would_take_too_long_make_way(clock, capsys):
    profile = Profile.load("digits")
    points = grid(profile)[:6]
    made, _ = clock(dict.fromkeys(points, 1.0), expected=1.0, generators={"gan-ns": 600})
    left = run_points(profile, points, hours=100 / 3600)
    assert {point.augmentation for point in left} == {"gan-ns"}
    assert made == [point for point in points if point.augmentation != "gan-ns"]
    assert f"{len(left)} points are left" in capsys.readouterr().out


@pytest.mark.parametrize("hours", [0, -1, float("nan"), "1"])
def test_a_budget_must_be_a_number_above_zero(refuses, hours):
    refuses(lambda: run_points(Profile.load("digits"), [], hours=hours), "hours", hours)


def test_the_first_point_is_expected_to_take_what_recorded_ones_took(house, tmp_path, monkeypatch):
    profile = small_profile(tmp_path)
    monkeypatch.setattr(runner, "estimate", lambda profile: {"train": 7.0, "stress": 4.0})
    assert runner._expected(profile) == 11
    points = grid(profile)[:3]
    run_points(profile, points, progress=False)
    sweep.collect(profile)
    cost = records.read(profile.name, "cost")
    totals = sorted(cost.groupby(["augmentation", "p", "seed"]).value.sum())
    assert runner._expected(profile) == totals[1]
    # Another device says nothing of this one.
    monkeypatch.setattr(runner, "describe", lambda device: {"device": "another"})
    assert runner._expected(profile) == 11


# As on a GPU: bf16 and compiled


def test_the_fast_path_gives_the_same_study_on_a_cpu(house, tmp_path, cifar, monkeypatch):
    changes = {
        "network": "small_cnn", "subset": [300, 100], "training.epochs": 10,
        "training.batch_size": 30, "training.learning_rate": 0.03, "sweep.batch": 50,
        "grid.augmentation": ["classic", "mixup"], "measures.influence.method": "exact",
    }  # fmt: skip
    profile = small_profile(tmp_path, "cifar10", **changes)
    assert (profile.training["precision"], profile.sweep["compile"]) == ("bf16", True)
    points = [profile.point(name, p, 0) for name, p in (("none", 0), ("classic", 1), ("mixup", 1))]

    def study_in(name):
        house(name)
        run_points(profile, points, progress=False)
        return [frame_of(profile, point) for point in points]

    plain = study_in("plain")
    assert not plain[0].device.str.contains("bf16|compiled").any()
    monkeypatch.setattr(runtime, "accelerated", lambda: True)
    fast = study_in("fast")
    assert all(frame.device.str.endswith(", bf16, compiled").all() for frame in fast)
    # The process compiles for the first point alone, and says so in its record.
    assert [(frame.stage == "compile").sum() for frame in fast] == [1, 0, 0]
    compiled = graphs()
    again = study_in("again")
    assert graphs() == compiled
    key = ["table", "measure", "attack", "steps", "eps", "centre", "group", "test", "method"]
    for one, two, three in zip(plain, fast, again, strict=True):
        # A hundred images: the same up to a few; twice the fast path, the same.
        for measure in ("clean error", "risk under attack"):
            rows = [frame[frame.measure == measure].set_index(key[1:5]).value
                    for frame in (one, two, three)]  # fmt: skip
            assert (rows[0] - rows[1]).abs().max() <= 0.08
            pd.testing.assert_series_equal(rows[1], rows[2], atol=0.003, rtol=0)


def test_memory_that_runs_out_names_the_setting_of_the_profile(house, tmp_path, monkeypatch):
    import torch

    profile = small_profile(tmp_path)
    point = profile.point("none", 0, 0)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(trained.training, "train", full)
        with pytest.raises(MemoryError, match="training: batch_size: 64"):
            run_points(profile, [point], progress=False)
    own = trained.subject(profile, point, progress=False)
    monkeypatch.setattr("lib.measures.subject.pgd", full)
    with pytest.raises(MemoryError, match="sweep: batch: 250"):
        own.adversarial(0.5, 1)
    monkeypatch.setattr("lib.measures.stress.prediction_change_stress", full)
    with pytest.raises(MemoryError, match="sweep: batch: 250"):
        measures.module("stress").rows(own, profile.measures["stress"])
    assert done(profile) == []


def test_a_solve_that_does_not_fit_is_refused_before_the_training(house, tmp_path, refuses):
    """The exact Hessian of ResNet-50's last layer takes more than a processor is given for it."""
    profile = small_profile(
        tmp_path, **{"network": "resnet50", "measures.influence.method": "exact"}
    )
    point = profile.point("none", 0, 0)
    refuses(lambda: run_points(profile, [point]), "influence: method", "20490", "cg")
    assert not trained.checkpoint_path(profile, point).exists()
