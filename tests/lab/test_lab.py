"""The Similarity Lab: each tab's answers, odd uploads, and a server that speaks to its own page alone."""

import base64
import http.client
import io
import json
import re
import shutil
import struct
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import TINY, class_folder, config, encoded, huge_png, quadrants, ready, smooth

from common.backbones import EmbeddingNet, SiameseNet
from common.checkpoints import save
from common.config import ROOT
from common.datasets import load_images
from common.datasets.splits import make_splits, save_splits
from common.evaluation.metrics import Threshold
from lab import app
from lab.answers import APPROACHES, FILES, MOST_BYTES, RADII, SHOWN, Lab, NoModels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six drawn species with six untrained models."""
    run = config(tmp_path_factory.mktemp("run"), species=6, image_size=32)
    pictures = load_images(run)
    save_splits(make_splits(pictures, run), run.directory / "splits.json")
    for variant, name in FILES.items():
        for number, approach in enumerate(APPROACHES):
            torch.manual_seed(number + 10 * (variant == "robust"))
            network = SiameseNet if approach == "siamese_network" else EmbeddingNet
            net = ready(network(TINY, 8, image_size=32), 32)
            save(run, pictures, name.format(approach), net, Threshold(0.5, "validation"), pd.DataFrame({"epoch": [1]}))
    return run


@pytest.fixture(scope="module")
def lab(run):
    return Lab(run)


@pytest.fixture(scope="module")
def pair(lab):
    return lab.draw(1, 1000)["name"], lab.draw(2, 1000)["name"]


def shown(address: str) -> np.ndarray:
    """The picture in a data: address, H x W x 3 integers."""
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)


def test_without_models_it_says_how_to_make_them(tmp_path, monkeypatch):
    with pytest.raises(NoModels, match="make run"):
        Lab(config(tmp_path))
    monkeypatch.setenv("SIMILARITY_CHECKPOINTS", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert "no trained models" in str(stopped.value) and "make run" in str(stopped.value)
    (tmp_path / "birds-quick-epochs2").mkdir()
    (tmp_path / "birds-quick-epochs2" / FILES["standard"].format("triplet_loss")).touch()
    with pytest.raises(SystemExit, match="There are models of: birds-quick-epochs2"):
        app.main()


def test_it_works_with_the_models_that_are_there(run, tmp_path):
    some = config(tmp_path, species=6, image_size=32)
    some.directory.mkdir(parents=True)
    name = FILES["standard"].format("triplet_loss")
    (some.directory / name).write_bytes((run.directory / name).read_bytes())
    lab = Lab(some)
    first, second = (lab.draw(species, 1)["name"] for species in (0, 1))
    assert list(lab.about()["approaches"]) == ["triplet_loss"] and not lab.about()["robust"]
    assert len(lab.compare(first, second)["verdicts"]) == 1
    assert list(lab.fool(first, second, "triplet_loss", 4)["answers"]) == ["standard"]
    with pytest.raises(ValueError, match="no standard model of 'center_loss' here; there are: triplet_loss"):
        lab.why(first, second, "center_loss")


def test_a_flower_is_drawn_and_its_factors_turn(lab):
    plain, more = lab.draw(1, 1000), lab.draw(1, 1000, petals=24, color="blue", background="sky")
    assert shown(plain["picture"]).shape == (SHOWN, SHOWN, 3) and plain["drawn"]
    assert plain["title"].endswith("drawn") and more["title"].endswith("changed")
    assert (shown(plain["picture"]) != shown(more["picture"])).mean() > 0.2
    assert more["factors"] | dict(petals=24, color="blue", background="sky") == more["factors"]
    assert lab.draw(1, 1000)["name"] == plain["name"] != lab.draw(1, 1001)["name"]
    for wrong in (dict(petals=99), dict(petals="9"), dict(color="plaid"), dict(background="moon"), dict(height=2)):
        with pytest.raises(ValueError):
            lab.draw(1, 1000, **wrong)
    for species, instance in ((6, 0), (-1, 0), ("1", 0), (1, -1), (1, 10**9)):
        with pytest.raises(ValueError):
            lab.draw(species, instance)


def test_same_or_different_is_judged_by_each_threshold(lab, pair):
    answer = lab.compare(*pair)
    assert [verdict["approach"] for verdict in answer["verdicts"]] == list(APPROACHES.values())
    for verdict, approach in zip(answer["verdicts"], APPROACHES, strict=True):
        judge, (one, other) = lab.judges["standard"][approach], lab._pictures(*pair)
        with torch.no_grad():
            assert verdict["score"] == pytest.approx(judge.model.score(one.seen, other.seen).item(), abs=1e-5)
        assert verdict["same"] == (verdict["score"] >= 0.5) == (verdict["place"] >= 0)
    assert answer["same"] == sum(verdict["same"] for verdict in answer["verdicts"])
    twice = lab.compare(pair[0], pair[0])
    assert twice["verdicts"][0]["score"] == pytest.approx(1) and twice["verdicts"][0]["place"] == pytest.approx(1)


@pytest.mark.parametrize("approach", APPROACHES)
def test_an_attack_stays_within_eps_and_never_helps(lab, pair, approach):
    harms = []
    for eps in (0, *RADII):
        answers = lab.fool(*pair, approach, eps)["answers"]
        assert list(answers) == ["standard", "robust"]
        for found in answers.values():
            before, after = found["before"], found["after"]
            harm = (before["score"] - after["score"]) * (1 if before["same"] else -1)
            assert harm >= -1e-5 and found["largest"] <= eps + 1e-3
            assert found["fooled"] == (before["same"] != after["same"]) and (eps or not found["fooled"])
            assert shown(found["picture"]).shape == shown(found["change"]).shape == (32, 32, 3)
        harms.append(harm)
        moved = np.abs(shown(found["change"]) - 127.5) > 1
        assert moved.any() == (eps > 0)
    assert harms[-1] > harms[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("approach", APPROACHES)
def test_maps_of_both_and_the_score_without_parts(lab, pair, approach):
    answer = lab.why(*pair, approach, "robust")
    assert len(answer["maps"]) == 2 and all(shown(one).shape == (SHOWN, SHOWN, 3) for one in answer["maps"])
    names = [part["what"] for part in answer["parts"]]
    assert {"no petals", "most relevant fifth blurred", "least relevant fifth blurred"} <= set(names)
    for part in answer["parts"]:
        assert part["drop"] == pytest.approx(answer["score"] - part["score"], abs=1e-5)
    with pytest.raises(ValueError, match="the same picture to the model"):
        lab.why(pair[0], pair[0], "triplet_loss")


def test_squares_are_hidden_where_one_clicks(lab, pair):
    before = lab.hide(*pair, "triplet_loss", [])
    after = lab.hide(*pair, "triplet_loss", [[0.5, 0.5]])
    changed = (shown(before["picture"]) != shown(after["picture"])).any(2)
    rows, columns = np.where(changed)
    assert before["drop"] == pytest.approx(0, abs=1e-6) and after["drop"] != 0
    assert abs(rows.mean() - SHOWN / 2) < 12 and abs(columns.mean() - SHOWN / 2) < 12
    assert 0.5 * (SHOWN / 6) ** 2 < changed.sum() <= (SHOWN // 6) ** 2
    for wrong in ([[2, 0.5]], [[0, 0]] * 101):
        with pytest.raises(ValueError):
            lab.hide(*pair, "triplet_loss", wrong)


@pytest.mark.parametrize("approach", APPROACHES)
def test_search_finds_in_the_test_pictures(lab, pair, approach):
    answer = lab.search(pair[0], approach)
    scores = [one["score"] for one in answer["found"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 8
    assert answer["wanted"] == lab.species[1].name and "test pictures of the run" in answer["where"]
    assert all(one["right"] == (one["title"] == answer["wanted"]) for one in answer["found"])
    assert {one["title"] for one in answer["found"]} <= {species.name for species in lab.species}
    changed = lab.draw(1, 1000, color="blue")["name"]
    assert lab.search(changed, approach)["wanted"] is None, "a changed flower is of no species"


def test_search_finds_in_a_folder_of_ones_own(lab, pair, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encoded(smooth(number), "PNG"))
    (tmp_path / "bad.jpg").write_text("text")
    query = lab.upload((tmp_path / "3.png").read_bytes())["name"]
    answer = lab.search(query, "triplet_loss", f" {tmp_path} ", number=3)
    assert answer["found"][0]["title"] == "3.png" and answer["found"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert (len(answer["found"]), answer["damaged"]) == (3, 1) and "5 pictures of the folder" in answer["where"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        lab.search(query, "triplet_loss", "/nowhere")


def test_pictures_are_forgotten_with_a_message(lab, pair):
    for question in (lab.compare, lab.why):
        with pytest.raises(ValueError, match="no longer here"):
            question(pair[0], "0" * 16, *(["triplet_loss"] if question == lab.why else []))


def test_a_run_on_photographs_shows_its_own_test_pictures(tmp_path):
    run = config(tmp_path, dataset=f"folder:{class_folder(tmp_path / 'photos', each=12)}", image_size=32)
    pictures = load_images(run)
    splits = make_splits(pictures, run)
    save_splits(splits, run.directory / "splits.json")
    net, history = ready(EmbeddingNet(TINY, 8, image_size=32), 32), pd.DataFrame({"epoch": [1]})
    save(run, pictures, FILES["standard"].format("triplet_loss"), net, Threshold(0.5, "validation"), history)
    lab, test = Lab(run), splits.parts["closed_set"]["test"]
    first, second = lab.sample(0), lab.sample(len(test) + 1)
    assert not lab.about()["drawn"] and not first["drawn"] and first["title"] in pictures.class_names
    assert lab.sample(1)["name"] == second["name"] != first["name"]
    answer = lab.search(first["name"], "triplet_loss", number=24)
    kin = sum(pictures.class_names[label] == first["title"] for label in pictures.labels[test])
    assert answer["wanted"] == first["title"] and len(answer["found"]) == len(test) - 1, "all but itself"
    assert sum(one["right"] for one in answer["found"]) == kin - 1
    names = [part["what"] for part in lab.why(first["name"], second["name"], "triplet_loss")["parts"]]
    assert names == ["most relevant fifth blurred", "least relevant fifth blurred"]


def odd_files() -> dict[str, bytes]:
    """Files a user might drop: name -> content."""
    picture = smooth(1, 64)
    forms = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA")
    whole = {form: encoded(picture, form) for form in forms}
    files = {f"{form} {name}": content[: int(len(content) * share)]
             for form, content in whole.items()
             for name, share in (("whole", 1), ("half", 0.5), ("head", 0.02))}  # fmt: skip
    files |= {f"{form} flipped": bytes(255 - byte if 40 < place < 60 else byte for place, byte in enumerate(content))
              for form, content in whole.items()}  # fmt: skip
    files |= {
        "empty": b"", "text": b"no picture", "html": b"<html><script>alert(1)</script></html>", "zeros": bytes(9999),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "pdf": b"%PDF-1.4 ...", "zip": b"PK\x03\x04" + bytes(60),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0", "noise": np.random.default_rng(0).bytes(5000), "bomb": huge_png(),
        "jpeg then text": whole["JPEG"][:300] + b"text" * 100,
    }  # fmt: skip
    for name, mode, form in (("CMYK", "CMYK", "JPEG"), ("gray", "L", "PNG"), ("palette", "P", "PNG"),
                             ("bits", "1", "PNG"), ("transparent", "RGBA", "PNG")):  # fmt: skip
        files[name] = encoded(Image.fromarray(picture).convert(mode), form)
    files["LAB"] = encoded(Image.new("LAB", (9, 9)), "TIFF")
    files["16 bits"] = encoded(np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32), "PNG")
    files["floats"] = encoded(np.full((32, 32), np.nan, np.float32), "TIFF")
    files["1 x 1"] = encoded(picture[:1, :1], "PNG")
    files["1 x 5000"] = encoded(np.repeat(picture[:1, :1], 5000, 0), "PNG")
    frames = [Image.fromarray(smooth(seed)) for seed in range(3)]
    for form in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        files[f"animated {form}"] = file.getvalue()
    files["damaged EXIF"] = encoded(quadrants(), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(40))
    files["lying size"] = whole["PNG"][:16] + struct.pack(">II", 60000, 60000) + whole["PNG"][24:]
    return files


READABLE = ("whole", "CMYK", "gray", "palette", "bits", "transparent", "16 bits", "1 x", "animated", "damaged EXIF")


@pytest.fixture(scope="module")
def server(lab):
    """A running server: its port."""
    server = app.serve(lab, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port, method, path, body=None, **headers):
    """(status, headers, what is sent back)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_odd_uploads_give_a_picture_or_a_message_and_never_a_trace(server, capfd):
    files = odd_files()
    assert len(files) >= 50
    for name, content in files.items():
        status, _, answer = ask(server, "POST", "/upload", content)
        answer = json.loads(answer)
        if any(name.endswith(word) or name.startswith(word) for word in READABLE):
            assert status == 200 and shown(answer["picture"]).shape == (SHOWN, SHOWN, 3), name
        else:
            assert status in (200, 400), name
            assert status == 200 or re.fullmatch(r"This picture cannot be read: [^\n]+\.", answer["message"]), name
            assert "/tmp" not in str(answer.get("message")) and "Traceback" not in str(answer), name
    assert ask(server, "POST", "/upload", files["bomb"])[0] == ask(server, "POST", "/upload", b"")[0] == 400
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_file_too_large_is_refused_before_it_is_read(server):
    status, _, answer = ask(server, "POST", "/upload", b"", Content_Length=str(MOST_BYTES + 1))
    assert status == 413 and "20 MB" in json.loads(answer)["message"]


def test_the_page_and_its_answers_come_over_loopback(server, pair):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, content = ask(server, "GET", path)
        assert status == 200 and headers["Content-Type"].startswith(kind)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        outside = re.findall(rb"(?:https?:)?//[\w.-]+\.\w+", content.replace(b"http://www.w3.org/2000/svg", b""))
        assert outside == [] and b"@import" not in content
    question = json.dumps({"first": pair[0], "second": pair[1]})
    status, _, answer = ask(server, "POST", "/compare", question, Origin=f"http://127.0.0.1:{server}")
    assert status == 200 and len(json.loads(answer)["verdicts"]) == 3


def test_only_its_own_page_may_ask(server, pair):
    for headers in (dict(Host="evil.example"), dict(Host=f"evil.example:{server}"), dict(Origin="http://evil.example"),
                    dict(Origin="null"), dict(Origin=f"http://127.0.0.1:{server + 1}")):  # fmt: skip
        for method in ("GET", "POST"):
            status, _, answer = ask(server, method, "/about" if method == "POST" else "/", b"{}", **headers)
            assert status == 403 and b"own page" in answer
    assert ask(server, "POST", "/about", b"{}", Host=f"localhost:{server}")[0] == 200


@pytest.mark.parametrize("path, body", [
    ("/nothing", b"{}"), ("/_judge", b'{"approach": "triplet_loss"}'), ("/prepare", b"{}"), ("/compare", b"not JSON"),
    ("/compare", b"{}"), ("/compare", b'{"first": 1, "second": 2}'), ("/compare", b'{"first": "a", "third": "b"}'),
    ("/fool", b'{"first": "a", "second": "b", "approach": "c", "eps": 4}'), ("/draw", b'{"species": 0}'),
    ("/draw", b'{"species": 0, "instance": 0, "petals": null}'), ("/../app.py", b"{}"), ("/upload", b"{}"),
])  # fmt: skip
def test_senseless_questions_get_a_message(server, path, body):
    status, _, answer = ask(server, "POST", path, body)
    assert status == 400 and json.loads(answer)["message"]
    assert ask(server, "GET", path)[0] == 404


def test_what_fails_inside_shows_no_trace_on_the_page(server, lab, monkeypatch, capfd):
    def fail(self, *_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Lab, "compare", fail)
    status, _, answer = ask(server, "POST", "/compare", b"{}")
    assert status == 500 and b"secret" not in answer and b"terminal" in answer
    assert "a secret" in capfd.readouterr().err


def test_first_answers_take_less_than_two_seconds(lab):
    started = time.process_time()
    first, second = (lab.draw(3, instance)["name"] for instance in (1, 2))
    lab.compare(first, second)
    lab.why(first, second, "triplet_loss")
    lab.fool(first, second, "triplet_loss", 4)
    assert time.process_time() - started < 4, "2 s are meant; a busy machine's caches cost some"


def test_the_makefile_starts_it():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^lab: ## .*\n.*requirements.txt\)\n\t@\$\(python\) -m lab\.app$", makefile, re.MULTILINE)


@pytest.mark.skipif(not BROWSER, reason="neither chromium nor google-chrome is installed here")
def test_a_browser_shows_a_verdict_and_asks_nobody_else(server, tmp_path):
    log = tmp_path / "net.json"
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [BROWSER, "--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", *quiet]
    options = [f"--log-net-log={log}", "--virtual-time-budget=20000", "--dump-dom", f"http://127.0.0.1:{server}/"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert re.search(r"All three say: . (same|different)|They disagree: \d of 3 say same", done.stdout), done.stderr
    assert done.stdout.count("data:image/png;base64") >= 2, "both pictures are shown"
    own = f"http://127.0.0.1:{server}"
    requests = [event["params"] for event in json.loads(log.read_text())["events"] if "url" in event.get("params", {})]
    asked = [request["url"] for request in requests if own in request.get("initiator", "")]  # not the browser
    assert {url.removeprefix(own) for url in asked} >= {"/page.css", "/page.js", "/about", "/draw", "/compare"}
    assert all(url.startswith((f"{own}/", "data:")) for url in asked)
