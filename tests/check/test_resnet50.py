"""The profile of the talk's own protocol, cut down to what a CPU does in a minute."""

from tests.study.test_point import runs_through, small_profile


def test_the_resnet50_profile_runs_on_cifar10(house, tmp_path, cifar):
    # The exact solve for 20,490 parameters takes minutes on a CPU, conjugate gradients don't.
    runs_through(small_profile(tmp_path, "cifar10-resnet50", **{
        "subset": [40, 10], "training.epochs": 1, "measures.performance.steps": [1],
        "measures.stress.steps": 1, "measures.stress.neighbours": 2,
        "measures.stress.clean": [0.25], "measures.influence.steps": 1,
        "measures.influence.test_points": 10, "measures.influence.method": "cg",
    }))  # fmt: skip
