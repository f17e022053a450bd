"""Trials side by side on Ray Tune: on this machine's cores, or on a cluster.

Tune asks the feed what to run, tells it of each epoch and restarts the trial of a lost
worker. What a trial reached lies in its run and not in Ray: a restarted trial goes on from
its own checkpoint, and a search that was killed needs nothing of Ray's to go on.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.epoch import Epoch
from pipeline.core.errors import Interrupted, PareError
from pipeline.search.engine import Watcher
from pipeline.search.feed import Feed
from pipeline.search.folder import SearchDir
from pipeline.search.one_run import key_of, run_trial
from pipeline.search.trial import Outcome, Trial

_RETRIES = 3  # of a trial whose worker was lost
_CONNECT_S = 5
_STATE = ".ray"  # Tune's own files, of no use once the search has ended

#: Ray tells its makers nothing and leaves the terminal to us.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class OnRay:
    """The engine of many workers."""

    def __init__(self, workers: int | None, cpus: int, address: str | None) -> None:
        self.workers = workers or 1  # a cluster tells how many only once it is joined
        self._most = workers
        self._cpus = cpus
        self._address = address

    def run(self, feed: Feed, folder: SearchDir, watcher: Watcher) -> None:
        """Run trials until the feed has no more; see ``Engine``.

        Raises:
            PareError: the cluster can't be reached.
        """
        state = (folder.path / _STATE).resolve()
        with _quiet(), self._connected():
            from ray import tune

            held = _Held(feed, folder, watcher)
            hooks = _hooks(held)
            tuner = tune.Tuner(
                tune.with_resources(_work, {"cpu": self._cpus}),
                tune_config=tune.TuneConfig(
                    search_alg=hooks.searcher,
                    scheduler=hooks.scheduler,
                    num_samples=-1,  # as many as the feed gives
                    max_concurrent_trials=self._most,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(state),
                    failure_config=tune.FailureConfig(max_failures=_RETRIES),
                    callbacks=[hooks.callback],
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except KeyboardInterrupt:
                raise _interrupted(folder) from None
            if not (feed.exhausted and hooks.idle):
                raise _interrupted(folder)  # Tune takes Ctrl-C for itself and returns
        shutil.rmtree(state, ignore_errors=True)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Start a cluster on this machine, or join the one at the address."""
        import ray

        _demand_listening(self._address)
        own: dict[str, Any] = {}
        if not self._address:  # nobody else is to reach what runs on this machine alone
            cores = self.workers * self._cpus
            own = {"num_cpus": cores, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(
                address=self._address or "local",
                include_dashboard=None if self._address else False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": self._of_workers()},
                **own,
            )
        except Exception as error:  # refused in many ways
            where = f"the Ray cluster at {self._address}" if self._address else "Ray"
            first = str(error).strip().partition("\n")[0]
            raise PareError(f"{where} can't be reached: {first}") from error
        try:
            yield
        finally:
            ray.shutdown()

    def _of_workers(self) -> dict[str, str]:
        """Return the environment of the workers: each keeps to its own cores."""
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        found = dict.fromkeys(threads, str(self._cpus))
        return found if self._address else found | {"PYTHONPATH": os.pathsep.join(paths)}


def _demand_listening(address: str | None) -> None:
    """Refuse an address that nobody listens at; Ray itself would try for minutes.

    Raises:
        PareError: names the address.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # none, or a word of Ray's such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise PareError(
            f"the Ray cluster at {address} can't be reached: {error}. Start it (`ray start "
            "--head`) or check the address."
        ) from error


def _work(config: dict[str, Any]) -> None:
    """Run one trial in a worker, and report its epochs."""
    from ray import tune

    trial = Trial.model_validate_json(config["trial"])

    def told(epoch: Epoch, total: int) -> bool:
        tune.report({"epoch": epoch.model_dump_json(), "total": total})
        return True  # Tune ends a trial by itself

    folder = SearchDir(Path(config["folder"]))
    with folder.working():
        run_trial(trial, folder, told)
    tune.report({"ended": True})


class _Hooks:
    """What Tune is given: who suggests, who stops, who listens."""

    def __init__(self, searcher: Any, scheduler: Any, callback: Any) -> None:
        self.searcher, self.scheduler, self.callback = searcher, scheduler, callback

    @property
    def idle(self) -> bool:
        """Whether every trial that was begun has ended."""
        return not self.callback.running


class _Held:
    """What Tune's parts work with. Tune pickles its parts, and these are not to go along."""

    def __init__(self, feed: Any = None, folder: Any = None, watcher: Any = None) -> None:
        self.feed: Feed = feed
        self.folder: SearchDir = folder
        self.watcher: Watcher = watcher

    def __reduce__(self) -> tuple[type[_Held], tuple[()]]:
        return _Held, ()


def _hooks(held: _Held) -> _Hooks:
    """Make Tune's parts from a feed; their base classes are only there where Ray is."""
    from ray.tune import Callback
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.search import Searcher

    class Suggester(Searcher):  # type: ignore[misc]
        """Asks the feed."""

        def __init__(self) -> None:
            super().__init__(metric="ended", mode="max")

        def suggest(self, trial_id: str) -> Any:
            del trial_id
            trial = held.feed.next()
            if trial is None:
                return Searcher.FINISHED if held.feed.exhausted else None
            text, where = trial.model_dump_json(), str(held.folder.path.resolve())
            return {"name": trial.name, "trial": text, "folder": where}

        def on_trial_complete(
            self, trial_id: str, result: Any = None, error: bool = False
        ) -> None:
            """Say nothing: the callback does."""

        def save(self, checkpoint_path: str) -> None:
            """Save nothing: the outcomes are all there is to know."""

        def restore(self, checkpoint_path: str) -> None:
            """Restore nothing."""

    class Stopper(FIFOScheduler):  # type: ignore[misc]
        """Ends the training of a trial that the feed wants no more of."""

        def __init__(self) -> None:
            super().__init__()
            self.stopped: set[str] = set()

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
            if "epoch" not in result:
                return str(TrialScheduler.CONTINUE)
            epoch, name = Epoch.model_validate_json(result["epoch"]), trial.config["name"]
            if held.feed.epoch(name, epoch, int(result["total"])):
                return str(TrialScheduler.CONTINUE)
            self.stopped.add(name)
            return str(TrialScheduler.STOP)

    class Listener(Callback):  # type: ignore[misc]
        """Tells the watcher, and the feed of what ended."""

        def __init__(self, stopper: Stopper) -> None:
            self.running: dict[str, Trial] = {}
            self._stopper = stopper

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            own = Trial.model_validate_json(trial.config["trial"])
            self.running[own.name] = own
            held.watcher.began(own)

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            name = trial.config["name"]
            if "epoch" in result and name in self.running:
                epoch = Epoch.model_validate_json(result["epoch"])
                held.watcher.epoch(self.running[name], epoch, int(result["total"]))

        def on_trial_complete(
            self, iteration: int, trials: Any, trial: Any, **info: Any
        ) -> None:
            self._ended(trial.config["name"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            error = trial.get_error()
            self._ended(trial.config["name"], f"its worker was lost: {error}" if error else "")

        def _ended(self, name: str, error: str = "") -> None:
            trial = self.running.pop(name, None)
            if trial is None:
                return
            outcome = _outcome(
                trial, held.folder, error, stopped=name in self._stopper.stopped
            )
            held.feed.told(outcome)
            held.watcher.ended(outcome)

    stopper = Stopper()
    return _Hooks(Suggester(), stopper, Listener(stopper))


def _outcome(trial: Trial, folder: SearchDir, error: str, *, stopped: bool) -> Outcome:
    """Return what a worker recorded, or what there is to say where it could not."""
    if stopped:
        why = "stopped: others were ahead after as many epochs"
        key = key_of(trial, folder)
        outcome = Outcome(trial=trial.name, key=key, state="stopped", why=why, seconds=0.0)
    else:
        found = folder.outcome(trial.name)
        if found is not None and not error:
            return found
        first = (error or "its worker ended without a word").strip().partition("\n")[0]
        outcome = Outcome(trial=trial.name, key="", state="failed", why=first, seconds=0.0)
    folder.keep(outcome)
    return outcome


def _interrupted(folder: SearchDir) -> Interrupted:
    return Interrupted(
        f"interrupted. What is finished is kept in {folder.path}; run the same command again "
        "to go on from there."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Set Ray's variables where the user has not, and take them back."""
    own = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
