"""Files are written whole or not at all."""

import json

import pytest

from common.datasets.files import save_json, write_whole


def test_a_file_and_its_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    save_json(path, {"a": [1, None, "ö"]})
    assert json.loads(path.read_text()) == {"a": [1, None, "ö"]}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "file.txt"
    write_whole(path, lambda temporary: temporary.write_text("old"))

    def half(temporary):
        temporary.write_text("ne")
        raise stop

    with pytest.raises(stop):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


def test_the_old_file_stands_while_the_new_one_is_written(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    seen = []
    write_whole(path, lambda temporary: (temporary.write_text("new"), seen.append(path.read_text())))
    assert seen == ["old"] and path.read_text() == "new"


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    save_json(tmp_path / "file.json", [1])
    with pytest.raises(TypeError):
        save_json(tmp_path / "file.json", [object()])
    assert json.loads((tmp_path / "file.json").read_text()) == [1]
