import json

import pytest

from foretune.errors import ForetuneError, UsageError
from foretune.runs.result_file import ResultFile


def file_at(path):
    return ResultFile(path=path, option="--json", what="a probe", telling="forecast", again="probe again")


def test_results_replace_those_of_the_same_kind(tmp_path):
    file = file_at(tmp_path / "probe.json")
    file.check()
    file.write({"forecast": 1})
    file.check()
    file.write({"forecast": [2.5, None]})
    assert json.loads((tmp_path / "probe.json").read_text()) == {"forecast": [2.5, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


@pytest.mark.parametrize("content", ['{"setting": 1}', "[1, 2]", "3", "forecast", "{"])
def test_nothing_else_is_overwritten(tmp_path, content):
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(
        UsageError, match=r"^--json .*notes.json is there and holds no results of a probe; give another"
    ):
        file_at(tmp_path / "notes.json").check()


def test_places_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is a folder; give a file\.$"):
        file_at(tmp_path).check()
    with pytest.raises(UsageError, match=r"there is no folder .*missing; make it, or give another file\.$"):
        file_at(tmp_path / "missing" / "probe.json").check()


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    file = file_at(tmp_path / "probe.json")
    file.write({"forecast": 1})

    def full(path, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(
        ForetuneError, match=r"cannot be written \(No space left on device\): make room, then probe again"
    ):
        file.write({"forecast": 2})
    assert json.loads((tmp_path / "probe.json").read_text()) == {"forecast": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]
