"""Files that are there whole or not at all."""

import contextlib

from nfx._files import replacing, write_whole


def test_two_who_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "report.html"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "file"
    write_whole(path, "whole\n", scratch=scratch)
    with contextlib.suppress(KeyboardInterrupt), replacing(path, scratch=scratch) as file:
        file.write(b"half")
        assert [found.suffix for found in scratch.iterdir()] == [".partial"]
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole\n"
    assert not list(scratch.iterdir())
