"""What all tests share: no setting of the user's reaches them, and nothing of the user's is touched by them."""

import functools
import http.server
import os
import sys
import threading
from dataclasses import replace

import pytest

from common.config import setup
from common.datasets import load_images

collect_ignore = [] if any("slow" in word for word in sys.argv) else ["slow"]  # `make test-slow` runs them


@pytest.fixture(scope="session", autouse=True)
def isolated_settings(tmp_path_factory):
    """Hide every `SIMILARITY_*` variable, keep checkpoints and decoded pictures in a temporary folder, use the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SIMILARITY_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("settings")
        patch.setenv("SIMILARITY_CHECKPOINTS", str(folder / "checkpoints"))
        patch.setenv("SIMILARITY_CACHE", str(folder / "cache"))
        patch.setenv("SIMILARITY_DEVICE", "cpu")  # the same numbers where there is a GPU
        yield


@pytest.fixture
def load(tmp_path):
    """load(dataset, data=...) with a cache of the test's own and small pictures."""
    def run(dataset, data=None, size=16, **changes):
        config = setup(dataset=dataset, data=data, cache=tmp_path / "cache", device="cpu")
        return load_images(replace(config, image_size=size, **changes))

    return run


@pytest.fixture
def serve():
    """serve(folder) starts a web server on this machine: its address, and a list of (verb, file) it was asked for."""
    running = []

    def start(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                asked.append((self.command, self.path.strip("/")))

        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_address[1]}/", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
