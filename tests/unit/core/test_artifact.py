import hashlib
import platform
import subprocess

import pytest

from pipeline.core.artifact import Artifact, Provenance, git_commit, sha256, versions


def artifact(**files):
    provenance = Provenance(
        stage="train",
        key="k",
        parent=None,
        parameters={"lr": 0.1},
        seed=0,
        git_commit=None,
        versions=versions(),
        seconds=0.5,
        finished_utc="2026-01-01T00:00:00+00:00",
    )
    return Artifact(kind="network", files=files, metrics={"a": 1}, provenance=provenance)


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_whole_artifact_has_no_broken_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert artifact(a=sha256(tmp_path / "a")).broken_file(tmp_path) is None


@pytest.mark.parametrize("harm", ["change", "remove", "folder"])
def test_a_broken_file_is_named(tmp_path, harm):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    whole = artifact(a=sha256(path))
    path.unlink()
    if harm == "change":
        path.write_bytes(b"abd")
    elif harm == "folder":
        path.mkdir()
    assert whole.broken_file(tmp_path) == "a"


def test_an_artifact_survives_json():
    assert Artifact.model_validate_json(artifact().model_dump_json()) == artifact()


def test_versions_name_python_and_what_is_installed_only(monkeypatch):
    monkeypatch.setattr("pipeline.core.artifact.ENGINES", ("torch", "no-such-engine"))
    assert versions().keys() == {"python", "torch"}
    assert versions()["python"] == platform.python_version()


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    found = git_commit(tmp_path)
    assert found is not None
    assert len(found) == 40


def test_an_artifact_follows_the_very_execution_it_was_made_from():
    parent = _made("train", "p", None)
    heir = _made("prune", "h", "p", parent_record=parent.digest)
    assert heir.follows(parent)
    assert parent.follows(None)
    assert not heir.follows(None)
    assert not parent.follows(heir)
    again = parent.model_copy(update={"metrics": {"seconds": 2}})
    assert not heir.follows(again)  # the same key, another execution
    assert not heir.follows(_made("train", "q", None))


def _made(stage, key, parent, **more):
    provenance = Provenance(
        stage=stage, key=key, parent=parent, parameters={}, seed=0, git_commit=None,
        versions={}, seconds=1, finished_utc="", **more,
    )  # fmt: skip
    return Artifact(kind=stage, files={}, metrics={}, provenance=provenance)
