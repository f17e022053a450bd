import errno
import json
import subprocess
import sys

import pytest

from pipeline.core.artifact import Artifact, Provenance
from pipeline.core.errors import PareError
from pipeline.core.rundir import CHECKPOINT, RunDir, is_full, read_json, write_json, write_text


def finish(run, number=1, stage="train", key="k", content="hello"):
    partial = run.open_partial(number, stage, key, resumable=False)
    (partial / "sub").mkdir()
    (partial / "sub" / "file").write_text(content)
    run.commit(number, stage, record(run, number, stage, key))


def record(run, number=1, stage="train", key="k"):
    return Artifact(
        kind="thing",
        files=run.files(number, stage),
        metrics={},
        provenance=Provenance(
            stage=stage,
            key=key,
            parent=None,
            parameters={},
            seed=0,
            git_commit=None,
            versions={},
            seconds=0,
            finished_utc="",
        ),
    )


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def test_a_committed_stage_is_finished_and_nothing_is_left_beside_it(run):
    finish(run)
    found = run.finished(1, "train", "k")
    assert found is not None
    assert found.files.keys() == {"sub/file"}
    assert [p.name for p in run.path.iterdir()] == ["1-train"]
    assert sorted(p.name for p in run.folder(1, "train").iterdir()) == ["stage.json", "sub"]


def test_another_key_is_not_finished_and_any_key_is(run):
    finish(run)
    assert run.finished(1, "train", "other") is None
    assert run.finished(1, "train") is not None


def test_a_partial_folder_is_never_believed(run):
    partial = run.open_partial(1, "train", "k", resumable=True)
    (partial / "file").write_text("half")
    write_json(partial / "stage.json", record(run).model_dump(mode="json"))
    assert run.finished(1, "train", "k") is None


@pytest.mark.parametrize("harm", ["change", "remove", "record", "cut"])
def test_a_harmed_stage_is_not_finished(run, harm):
    finish(run)
    folder = run.folder(1, "train")
    if harm == "change":
        (folder / "sub" / "file").write_text("hellp")
    elif harm == "remove":
        (folder / "sub" / "file").unlink()
    elif harm == "record":
        (folder / "stage.json").unlink()
    else:
        text = (folder / "stage.json").read_text()
        (folder / "stage.json").write_text(text[: len(text) // 2])
    assert run.finished(1, "train", "k") is None


def test_a_commit_replaces_what_was_there(run):
    finish(run, content="old")
    finish(run, key="new", content="new")
    assert run.finished(1, "train", "k") is None
    assert run.finished(1, "train", "new") is not None
    assert (run.folder(1, "train") / "sub" / "file").read_text() == "new"
    assert [p.name for p in run.path.iterdir()] == ["1-train"]


def test_a_commit_leaves_all_other_stages_where_they_are(run):
    for number, stage in enumerate(["train", "prune", "compact"], 1):
        finish(run, number, stage)
    finish(run, 2, "prune", key="new")
    assert run.finished(1, "train", "k") is not None
    assert run.finished(2, "prune", "new") is not None
    assert run.finished(3, "compact", "k") is not None


def test_until_the_last_rename_the_older_result_stays(run, monkeypatch):
    finish(run, content="old")
    partial = run.open_partial(1, "train", "new", resumable=True)
    (partial / CHECKPOINT).write_text("weights")
    monkeypatch.setattr("pipeline.core.rundir.write_json", _full)
    with pytest.raises(OSError, match="No space"):
        run.commit(1, "train", record(run, key="new"))
    assert run.finished(1, "train", "k") is not None
    again = run.open_partial(1, "train", "new", resumable=True)
    assert (again / CHECKPOINT).read_text() == "weights"


def test_killed_between_the_renames_the_stage_can_still_be_continued(run, monkeypatch):
    finish(run, content="old")
    partial = run.open_partial(1, "train", "new", resumable=True)
    (partial / CHECKPOINT).write_text("weights")
    rename = type(partial).rename

    def killed(self, target):
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(partial), "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run.commit(1, "train", record(run, key="new"))
    monkeypatch.undo()
    assert run.finished(1, "train") is None
    again = run.open_partial(1, "train", "new", resumable=True)
    assert (again / CHECKPOINT).read_text() == "weights"
    run.commit(1, "train", record(run, key="new"))
    assert run.finished(1, "train", "new") is not None
    assert [p.name for p in run.path.iterdir()] == ["1-train"]


@pytest.mark.parametrize(
    ("key", "resumable", "kept"), [("k", True, True), ("k", False, False), ("x", True, False)]
)
def test_a_partial_folder_is_kept_only_for_a_resumable_stage_of_the_same_key(
    run, key, resumable, kept
):
    partial = run.open_partial(1, "train", "k", resumable=True)
    (partial / CHECKPOINT).write_text("weights")
    again = run.open_partial(1, "train", key, resumable=resumable)
    assert (again / CHECKPOINT).exists() is kept


def test_what_a_stage_needs_to_go_on_is_no_part_of_its_result(run):
    partial = run.open_partial(1, "train", "k", resumable=True)
    (partial / CHECKPOINT).write_text("weights")
    (partial / "model").write_text("m")
    assert run.files(1, "train").keys() == {"model"}
    run.commit(1, "train", record(run))
    assert not (run.folder(1, "train") / CHECKPOINT).exists()


def test_a_second_process_is_refused_while_the_first_works(run):
    code = (
        "import sys, pathlib\n"
        "from pipeline.core.rundir import RunDir\n"
        "from pipeline.core.errors import PareError\n"
        "try:\n"
        "    with RunDir(pathlib.Path(sys.argv[1])).lock(): print('got it')\n"
        "except PareError as error: print(error)\n"
    )

    def other():
        argv = [sys.executable, "-c", code, str(run.path)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    with run.lock():
        assert f"another process is running in {run.path}. Wait for it" in other()
    assert other() == "got it\n"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PareError, match=r"cannot write to .*file"),
        RunDir(tmp_path / "file").lock(),
    ):
        pass


def test_text_is_written_in_full_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"grün": 1})
    assert read_json(path) == {"grün": 1}
    assert "grün" in path.read_text(encoding="utf-8")
    monkeypatch.setattr(json, "dumps", lambda *a, **k: "{")
    monkeypatch.setattr(type(path), "replace", _full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {})
    assert read_json(path) == {"grün": 1}


def test_no_scratch_file_is_left(tmp_path):
    write_text(tmp_path / "a", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_seen_through_the_errors_it_causes():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        full, wrapped = OSError(number, ""), RuntimeError()
        wrapped.__cause__ = full
        assert is_full(full)
        assert is_full(wrapped)
    assert not is_full(OSError(errno.EACCES, ""))
    assert not is_full(RuntimeError("disk full"))


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")
