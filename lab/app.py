"""`make lab`: a page at an address of this machine alone, which needs no network and fetches nothing from anywhere."""

import inspect
import json
import sys
import threading
import traceback
import warnings
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common.config import setup
from lab.answers import MOST_BYTES, Lab

PORT = 7860  # or the next that is free
PAGE = {"/": "html", "/page.css": "css", "/page.js": "javascript"}
ANSWERS = ("about", "draw", "sample", "compare", "fool", "why", "hide", "search")
# The browser itself refuses whatever is not of this server, should the page ever name it.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " \
         "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """The page's three files, and a POST for each answer of the `Lab`: its arguments as JSON, an upload's raw bytes."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte
    lab: Lab
    turn = threading.Lock()  # models answer one question at a time

    def do_GET(self):
        """Send the page."""
        if not self._own():
            return
        path = self.path.partition("?")[0]
        if path in PAGE:
            file = Path(__file__).parent / (path[1:] or "page.html")
            self._send(200, file.read_bytes(), f"text/{PAGE[path]}; charset=utf-8")
        else:
            self._tell(404, "There is nothing here.")

    def do_POST(self):
        """Answer a question; whatever is wrong with it comes back as a message."""
        if not self._own():
            return
        length = self.headers.get("Content-Length", "none")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self.close_connection = True  # what was sent is not read
            self._tell(413, f"Send something of up to {MOST_BYTES // 10**6} MB: choose a smaller file.")
            return
        body = self.rfile.read(int(length))
        try:
            answer = self._answer(self.path.removeprefix("/"), body)
        except (ValueError, OSError) as error:
            self._tell(400, str(error))
        except Exception:
            traceback.print_exc()  # for the terminal; the page shows no traces
            self._tell(500, "Something went wrong; the terminal that runs the lab says what.")
        else:
            self._send(200, json.dumps(answer).encode(), "application/json")

    def _answer(self, name: str, body: bytes) -> dict:
        if name == "upload":
            given = {"data": body}
        elif name in ANSWERS:
            given = json.loads(body or b"{}")
        else:
            raise ValueError("There is nothing here.")
        question = getattr(self.lab, name)
        try:
            inspect.signature(question).bind(**given)
        except TypeError as error:
            raise ValueError(f"{name} cannot be asked like this: {error}") from error
        with self.turn:
            return question(**given)

    def _own(self) -> bool:
        """Whether the page itself asks: another site's page, under whatever name it reaches this address, may not."""
        host, port = self.headers.get("Host", ""), self.server.server_address[1]
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        origin = self.headers.get("Origin")
        if host in hosts and (origin is None or origin.removeprefix("http://") in hosts):
            return True
        self.close_connection = True
        self._tell(403, "Only the lab's own page may ask.")
        return False

    def _tell(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"message": message}).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": POLICY}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the page may have been closed meanwhile
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        """Keep the terminal quiet."""


def serve(lab: Lab, port: int = PORT) -> ThreadingHTTPServer:
    """A server of a lab on 127.0.0.1, not yet running, at `port` or one of the next hundred that are free."""
    handler = type("LabHandler", (Handler,), {"lab": lab})
    for candidate in range(port, port + 100) if port else (0,):
        try:
            return ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
    raise OSError(f"no port from {port} to {port + 99} is free")


def main() -> None:
    """Load the run's models, open the page, and serve it until interrupted."""
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is said on the page
    try:
        lab = Lab(setup())
        server = serve(lab)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    with suppress(ValueError, OSError):  # what the run's pictures lack, the search itself will say
        lab.prepare()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    print(f"The lab is at {address} (only on this machine); Ctrl+C ends it.", flush=True)
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
