"""The commit is that of the package's own checkout, whatever the environment says."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bench.system import files, provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder, *words):
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    words = ["git", "-C", str(folder), *settings, *words]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder):
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text(f"# {folder.name}\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", folder.name)
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def asked(monkeypatch):
    """The commit of the checkout in a folder."""

    def commit(folder):
        monkeypatch.setattr(provenance, "CHECKOUT", folder)
        provenance.commit.cache_clear()
        return provenance.commit()

    yield commit
    monkeypatch.undo()
    provenance.commit.cache_clear()


def test_variables_of_git_do_not_name_another_repository(tmp_path, monkeypatch, asked):
    own, other = repository(tmp_path / "own"), repository(tmp_path / "other")
    assert own != other
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "none"))
    assert asked(tmp_path / "own") == (own, False)


def test_code_that_is_not_committed_counts_whatever_git_is_told_to_show(tmp_path, asked):
    own = repository(tmp_path / "own")
    git(tmp_path / "own", "config", "status.showUntrackedFiles", "no")
    (tmp_path / "own" / "notes.txt").write_text("")
    assert asked(tmp_path / "own") == (own, False)
    (tmp_path / "own" / "new.py").write_text("")
    assert asked(tmp_path / "own") == (own, True)


def test_a_package_inside_another_repository_has_no_commit(tmp_path, asked):
    repository(tmp_path / "theirs")
    inside = tmp_path / "theirs" / "vendored"
    inside.mkdir()
    (inside / "pyproject.toml").write_text("")
    assert asked(inside) == ("", False)
    (tmp_path / "nowhere").mkdir()
    assert asked(tmp_path / "nowhere") == ("", False)


def test_what_another_program_of_that_name_says_is_no_commit(tmp_path, monkeypatch, asked):
    repository(tmp_path / "own")
    (tmp_path / "git").write_text(f"#!/bin/sh\necho {tmp_path / 'own'}\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked(tmp_path / "own") == ("", False)


def test_processes_with_the_same_number_write_different_partial_files(tmp_path, monkeypatch):
    """As in containers that share a folder."""
    names = []
    replace = files.os.replace
    monkeypatch.setattr(
        files.os, "replace", lambda part, path: (names.append(part.name), replace(part, path))
    )
    for _ in range(2):
        files.write_atomic(tmp_path / "file", b"x")
    assert len(set(names)) == 2 and [path.name for path in tmp_path.iterdir()] == ["file"]
