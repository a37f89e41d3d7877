import subprocess

import torch

from foretune.runs import provenance
from foretune.runs.provenance import Provenance, current_commit, is_dirty


def test_this_process_is_described():
    found = Provenance.here()
    assert found.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.machine
    assert found.date.endswith("Z")
    assert (found.commit, found.dirty) == (current_commit(), int(is_dirty()))


def test_a_repository_that_the_package_was_installed_into_is_not_its_own(monkeypatch, tmp_path):
    package = tmp_path / "venv" / "foretune"
    package.mkdir(parents=True)
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-mx"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    assert (current_commit(), is_dirty()) == ("", False)

    own = tmp_path / "src" / "foretune"
    own.mkdir(parents=True)
    monkeypatch.setattr(provenance, "_PACKAGE", own)
    assert len(current_commit()) >= 7
    assert not is_dirty()


def test_a_ledger_that_was_appended_to_is_no_other_code(monkeypatch, tmp_path):
    files = [tmp_path / "src" / "foretune" / "a.py", tmp_path / "benchmarks" / "results" / "step.csv"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-mx"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "_PACKAGE", files[0].parent)
    files[1].write_text("2\n")
    assert not is_dirty()
    files[0].write_text("2\n")
    assert is_dirty()


def test_a_processor_is_told_from_others_of_its_name(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD  EPYC\n\nprocessor\t: 1\nmodel\t\t: 18\n"
    )
    monkeypatch.setattr(provenance, "Path", lambda _: cpuinfo)
    assert provenance._cpu_model() == "AMD EPYC (family 25, model 17)"
