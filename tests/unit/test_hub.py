"""Claims of repositories and uploads, on a hub of this machine; every refusal is one line that says what to do."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from fake_hub import COMMIT, Repo
from foretune.errors import HubError
from foretune.hub import claim_repo, files_of, is_local, upload, url_of


def test_a_name_is_a_repository_of_the_token_s_owner(hub):
    assert claim_repo("tuned") == "me/tuned"
    assert claim_repo("me/other", private=True) == "me/other"
    assert (hub.repos["me/tuned"].private, hub.repos["me/other"].private) == (False, True)
    assert url_of("me/tuned") == f"{hub.url}/me/tuned"


def test_a_repository_that_is_there_is_taken_as_it_is(hub):
    hub.repos["me/tuned"] = Repo(files={"README.md": b"before"})
    assert claim_repo("tuned", private=True) == "me/tuned"
    assert hub.repos["me/tuned"] == Repo(files={"README.md": b"before"})


def test_a_token_that_is_given_wins(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert claim_repo("tuned", token="hf_mine") == "me/tuned"


@pytest.mark.parametrize(
    ("repo", "token", "parts"),
    [
        ("tuned", "hf_unknown", ["does not know the token", "hf auth login"]),
        ("tuned", "hf_reader", ["the token may not write there"]),
        ("me/there", "hf_reader", ["the token may not write there"]),
        ("them/tuned", "hf_mine", ["the token may not write there", "a repository of your own"]),
        ("them/there", "hf_mine", ["the token may not write there"]),
        ("my model", "hf_mine", ["'my model'"]),
        ("a/b/c", "hf_mine", ["'a/b/c'"]),
    ],
)
def test_what_the_hub_refuses(hub, repo, token, parts):
    hub.repos |= {"me/there": Repo(), "them/there": Repo()}
    with pytest.raises(HubError) as caught:
        claim_repo(repo, token=token)
    assert len(str(caught.value).splitlines()) == 1
    for part in (f"Cannot push to {repo}", *parts):
        assert part in str(caught.value)
    assert all(not there.files for there in hub.repos.values())


def test_no_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(HubError, match=r"there is no token\. Log in with 'hf auth login', or set HF_TOKEN"):
        claim_repo("tuned")
    assert not hub.repos


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"Cannot push to tuned: http://127.0.0.1:1 cannot be reached \(.*refused"):
        claim_repo("tuned")


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set\. Unset it"):
        claim_repo("tuned")


@pytest.fixture
def files(tmp_path):
    """Two files, one in a folder."""
    (tmp_path / "run" / "sub").mkdir(parents=True)
    (tmp_path / "run" / "README.md").write_text("---\ntags: [foretune]\n---\n\n# card\n")
    (tmp_path / "run" / "sub" / "weights").write_bytes(b"\0\1")
    return files_of(tmp_path / "run")


def test_upload_sends_these_files_in_one_commit(hub, files):
    assert list(files) == ["README.md", "sub/weights"]
    commit = upload(claim_repo("tuned"), files, message="a run")
    assert commit.oid == COMMIT
    assert hub.repos["me/tuned"].files == {name: path.read_bytes() for name, path in files.items()}
    assert hub.repos["me/tuned"].messages == ["a run"]
    files["sub/weights"].write_bytes(b"\2")
    assert upload("me/tuned", files, message="later", blocking=False).result().oid == COMMIT
    assert hub.repos["me/tuned"].files["sub/weights"] == b"\2"


def test_an_upload_that_breaks_off(hub, files):
    claim_repo("tuned")
    hub.is_broken = True
    with pytest.raises(HubError, match=r"Cannot push to me/tuned: status 422, .*the storage is full"):
        upload("me/tuned", files, message="a run")


@pytest.mark.parametrize(
    ("name", "local"),
    [("opt-125m", False), ("facebook/opt-125m", False), ("/models/opt", True), ("./opt", True), ("a/b/c", True)],
)
def test_paths_and_ids(name, local):
    assert is_local(name) is local


def test_a_folder_that_is_there_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "opt").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_local("opt")
