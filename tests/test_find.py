"""Finding pictures like one: a folder is embedded once, kept, and searched; strange files and places are survived."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import TINY, image_set, model

from common import find as module
from common.backbones import SiameseNet, embed
from common.checkpoints import save
from common.config import setup
from common.evaluation.metrics import Threshold, normalize
from common.find import ColorAndLayout, collect, find, main, printable, read_framed


@pytest.fixture
def folder(tmp_path):
    """12 pictures of 4 colors, in folders and not, and three files that are none."""
    pictures = image_set(4, 3)
    root = tmp_path / "my pictures"
    for number, (image, label) in enumerate(zip(pictures.images, pictures.labels, strict=True)):
        place = root / ["", "a", "a/b"][number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{label} {number}.png")
    (root / "notes.txt").write_text("no picture by its name")
    (root / "a" / "broken.jpg").write_text("no picture by its content")
    (root / "empty.png").touch()
    return root


@pytest.fixture
def net():
    return model(embedding_size=8).eval()


@pytest.fixture
def embedded(monkeypatch):
    """The numbers of pictures that were embedded, call by call."""
    calls = []

    def counted(model, images, *rest):
        calls.append(len(images))
        return embed(model, images, *rest)

    monkeypatch.setattr(module, "embed", counted)
    return calls


def trained(folder, net, **content):
    """A checkpoint of a model, as notebooks write them."""
    pictures, run = image_set(4, 3), setup(checkpoints=folder)
    return save(run, pictures, "toy.pth", net, Threshold(0.25, "validation"), pd.DataFrame({"epoch": [1]}), **content)


def test_a_folder_is_embedded_once_at_any_depth_without_what_is_damaged(folder, net, tmp_path, embedded, capsys):
    collection = collect(folder, net, cache=tmp_path / "kept")
    assert len(collection) == 12 and collection.files == sorted(collection.files) and embedded == [12]
    assert {Path(file).parent.as_posix() for file in collection.files} == {".", "a", "a/b"}
    assert set(collection.damaged) == {"a/broken.jpg", "empty.png"} and "12 pictures, 2 damaged" in repr(collection)
    assert "a/broken.jpg (not a picture" in capsys.readouterr().err
    image = read_framed(folder / collection.files[0], collection.framing)
    np.testing.assert_allclose(collection.embeddings[0], embed(net, image[None])[0], atol=1e-5)
    again = collect(folder, net, cache=tmp_path / "kept")
    assert embedded == [12] and (again.files, again.damaged) == (collection.files, collection.damaged)
    np.testing.assert_array_equal(again.embeddings, collection.embeddings)


def test_only_what_changed_is_embedded_again(folder, net, tmp_path, embedded):
    before = collect(folder, net, cache=tmp_path)
    first, second, third = before.files[:3]
    shutil.copy(folder / second, folder / first)  # other bytes under an old name
    (folder / third).unlink()
    shutil.copy(folder / second, folder / "empty.png")  # mended
    after = collect(folder, net, cache=tmp_path)
    assert embedded == [12, 2] and third not in after.files and set(after.damaged) == {"a/broken.jpg"}
    rows = dict(zip(after.files, after.embeddings, strict=True))
    np.testing.assert_allclose(rows[first], rows[second], atol=1e-5)
    np.testing.assert_allclose(rows["empty.png"], rows[second], atol=1e-5)


def test_what_was_embedded_before_an_interruption_is_kept(folder, net, tmp_path, monkeypatch, embedded):
    monkeypatch.setattr(module, "BATCH", 5)
    counted = module.embed

    def interrupted(*given):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        return counted(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "embed", interrupted)
        collect(folder, net, cache=tmp_path)
    done = sum(embedded)
    assert 0 < done < 12 and not [*tmp_path.rglob("*.part")]
    resumed = collect(folder, net, cache=tmp_path)
    assert sum(embedded) == 12 and len(resumed) == 12
    np.testing.assert_allclose(resumed.embeddings, collect(folder, net, cache=tmp_path / "new").embeddings, atol=1e-5)


def test_each_model_has_its_own_and_a_damaged_file_is_made_again(folder, net, tmp_path, embedded, capsys):
    collect(folder, net, cache=tmp_path)
    collect(folder, model(embedding_size=8, seed=1), cache=tmp_path)
    assert embedded == [12, 12]
    for file in (tmp_path / "collections").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    capsys.readouterr()
    assert len(collect(folder, net, cache=tmp_path)) == 12 and embedded == [12, 12, 12]
    assert "embedded again" in capsys.readouterr().err
    assert len(list((tmp_path / "collections").iterdir())) == 2, "whole files only"


def test_the_checkpoint_says_how_pictures_are_prepared(folder, net, tmp_path):
    content = dict(image_size=24, squeeze=True, grayscale=True, config=dict(image_size=99, grayscale=False))
    collection = collect(folder, net, content)
    assert collection.framing == dict(size=24, squeeze=True, grayscale=True)
    image = read_framed(folder / collection.files[0], collection.framing)
    assert image.shape == (3, 24, 24) and (image[0] == image[1]).all()
    np.testing.assert_allclose(collection.embeddings[0], embed(net, image[None])[0], atol=1e-5)
    older = collect(folder, net, dict(config=dict(image_size=40, grayscale=False)))
    assert older.framing == dict(size=40, squeeze=False, grayscale=False)
    assert collect(folder, net).framing["size"] == 160, "the size timm names for this backbone"


def test_the_most_similar_come_first_and_never_the_query_itself(folder, net):
    collection = collect(folder, net)
    query = folder / collection.files[4]
    table = find(query, collection, net, number=5)
    unit = normalize(collection.embeddings)
    expected = np.delete(unit @ unit[4], 4)
    assert list(table) == ["file", "score"] and len(table) == 5
    np.testing.assert_allclose(table["score"], np.sort(expected)[::-1][:5], atol=1e-5)
    assert collection.files[4] not in set(table["file"])
    assert len(find(query, collection, net, number=99)) == 11
    image = read_framed(query, collection.framing)
    by_array = find(image, collection, net, number=1)
    assert by_array["file"][0] == collection.files[4] and by_array["score"][0] == pytest.approx(1)
    shutil.copy(query, folder / "copy.png")
    assert find(query, collect(folder, net), net, 1)["file"].tolist() == ["copy.png"]


def test_a_siamese_network_ranks_by_its_own_score(folder):
    torch.manual_seed(0)
    net = SiameseNet(TINY, 8).eval()
    with torch.no_grad():
        net.pair_head.weight.normal_()
        net.pair_head.bias.fill_(5)
    collection = collect(folder, net)
    table = find(folder / collection.files[0], collection, net, number=11)
    vectors = torch.from_numpy(collection.embeddings)
    with torch.no_grad():
        scores = net.score_embeddings(vectors[:1], vectors[1:]).sort(descending=True).values
    np.testing.assert_allclose(table["score"], scores, atol=1e-4)
    assert scores.max() > 1


def test_folders_without_pictures_say_what_to_do(tmp_path, net, folder):
    with pytest.raises(FileNotFoundError, match="no folder"):
        collect(tmp_path / "nowhere", net)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no picture that can be read"):
        collect(tmp_path / "bare", net)
    alone = shutil.copy(folder / "0 0.png", tmp_path / "bare")
    with pytest.raises(ValueError, match="no picture but the query"):
        find(alone, collect(tmp_path / "bare", net), net)
    shutil.make_archive(tmp_path / "packed", "zip", folder)
    assert len(collect(tmp_path / "packed.zip", net)) == 12


def test_the_command_prints_a_table_and_draws_sheets(folder, net, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    drawn = tmp_path / "runs" / "found"
    shutil.copy(folder / "0 0.png", folder / "a" / "copy $x$\n.png")
    checkpoint = trained(tmp_path, net)
    main([str(folder / "0 0.png"), str(folder), "--model", str(checkpoint), "--number", "3", "--why"])
    said = capsys.readouterr().out
    assert "trained on made-up, where 0.250 and above is 'same'" in said and "The 3 of 13 pictures" in said
    assert "1  a/copy $x$\\n.png  1.000" in said and "Why number 1? It is the query's copy" in said
    for name in ("found.png", "why.png"):
        with Image.open(drawn / name) as sheet:
            assert min(sheet.size) > 200 and str(drawn / name) in said


@pytest.mark.parametrize("options", [[], ["--output", "."], ["--output", "a/sheets"]])
def test_a_search_finds_no_sheet_of_another_search_and_overwrites_no_picture(folder, monkeypatch, capsys, options):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.setattr(module, "_chosen", fallback(module._chosen))
    if not options:
        shutil.copy("0 0.png", "found.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for _ in range(2):
        main(["0 0.png", ".", "--number", "99", *options])
    assert {path: path.read_bytes() for path in before} == before
    said = capsys.readouterr().out.split("Model: ")[-1]
    sheet = Path(options[1] if options else "runs/found") / "found.png"
    assert sheet.exists() and f"Drawn: {sheet.resolve()}" in said
    assert f" {sheet} " not in said and (options or " found.png " in said), "a picture of the user's own is found"


def test_without_weights_it_says_so_and_compares_colors_and_layout(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "_online", lambda: False)
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    query = folder / "0 0.png"
    main([str(query), str(folder), "--number", "2", "--why"])
    said = capsys.readouterr().out
    assert "colors and layout alone" in said and "SIMILARITY_WEIGHTS" in said and "--model" in said
    assert said.count("  0 ") + said.count("/0 ") == 2, "the two other pictures of its color"
    with pytest.raises(SystemExit) as stopped:
        main([str(query), str(folder), "--backbone", "resnet18"])
    assert stopped.value.code == 1 and "no ImageNet weights for 'resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["none.png", "."], ["{query}", "nowhere"], ["{query}", ".", "--model", "no.pth"],
                                       ["{query}", ".", "--backbone", "resnot"], ["notes.txt", "."]])
def test_what_cannot_be_done_is_said_in_one_line(folder, monkeypatch, capsys, arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(module, "_chosen", fallback(module._chosen))
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(query="0 0.png") for argument in arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 1 and said and not any("Traceback" in line for line in said)


def fallback(chosen):
    """`_chosen`, but for the default backbone, which would be fetched."""
    return lambda given, config: chosen(given, config) if given.model or given.backbone else (ColorAndLayout(), None)


def test_names_of_files_cannot_command_a_terminal():
    assert printable("rose \x1b[2J\udcff\n.jpg") == "rose \\x1b[2J\\udcff\\n.jpg"
    assert printable("Löwenzahn") == "Löwenzahn"
