"""A sweep on a real Ray cluster of two nodes, of which one is lost in the middle."""

import time

import pytest
from fast_run import FAST

from pipeline.core.epoch import Epoch
from pipeline.core.rundir import read_json
from pipeline.search import on_ray
from pipeline.search.board import Quiet
from pipeline.search.folder import SearchDir
from pipeline.search.grid import axes, trials
from pipeline.search.on_ray import OnRay
from pipeline.search.sweep import sweep

pytest.importorskip("ray", reason="the extra 'sweep' is not installed")

pytestmark = pytest.mark.timeout(240)
EPOCHS = 40


class Killer(Quiet):
    """Takes a node away once a trial on it has trained for a few epochs."""

    def __init__(self, cluster, node):
        self.cluster, self.node = cluster, node
        self.began_often: list[str] = []
        self.epochs: dict[str, list[Epoch]] = {}
        self.lost = 0.0

    def began(self, trial):
        self.began_often.append(trial.name)

    def epoch(self, trial, epoch, total):
        self.epochs.setdefault(trial.name, []).append(epoch)
        both = len(self.epochs) == 2 and all(len(seen) >= 3 for seen in self.epochs.values())
        if not self.lost and both:
            self.lost = time.monotonic()
            self.cluster.remove_node(self.node, allow_graceful=False)


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # A cluster has this machine's own address, and the suite lets sockets reach loopback only.
    monkeypatch.setattr(on_ray, "_demand_listening", lambda address: None)
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    yield made
    made.shutdown()


def test_a_lost_node_loses_nothing_and_nothing_counts_twice(tmp_path, cluster):
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    changes = [*FAST, f"train.epochs={EPOCHS}"]
    wanted = trials("quickstart", axes(["budget.weights=0.5,0.4,0.3"]), 1, overrides=changes)
    wanted = [trial.model_copy(update={"until": "prune"}) for trial in wanted]
    watcher = Killer(cluster, second)
    ended = sweep(wanted, tmp_path / "sweep", OnRay(2, 1, cluster.address), watcher)
    assert watcher.lost, "no node was lost, so nothing was shown"
    assert [one.state for one in ended] == ["finished"] * 3
    # The trial of the lost node began again and went on from its checkpoint.
    again = [name for name in watcher.began_often if watcher.began_often.count(name) > 1]
    assert len(set(again)) == 1
    seen = watcher.epochs[again[0]]
    # Epochs it had done are told again and not done again: they took the same time to the bit.
    first = [epoch.seconds for epoch in seen if epoch.epoch == 1]
    assert len(first) == 2
    assert first[0] == first[1]
    folder = SearchDir(tmp_path / "sweep")
    for trial, outcome in zip(wanted, ended, strict=True):
        history = read_json(folder.run(trial.name) / "1-train" / "history.json")
        assert [epoch["epoch"] for epoch in history] == [*range(1, EPOCHS + 1)]
        assert outcome.figures["epochs"] == EPOCHS
    assert len(list((tmp_path / "sweep" / "outcomes").iterdir())) == 3
    # What the lost worker had done is what an unbroken run does.
    alone = sweep(wanted, tmp_path / "alone", OnRay(1, 1, None), Quiet())
    assert [one.figures["accuracy"] for one in alone] == [
        one.figures["accuracy"] for one in ended
    ]
