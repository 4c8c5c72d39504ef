"""A folder at a URL of this machine, for tests of what is fetched."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self):
        if not self.server.spoil(self):
            super().do_GET()

    def do_HEAD(self):
        if not self.server.spoil(self):
            super().do_HEAD()

    def log_message(self, *_arguments):
        pass


@contextmanager
def served(folder, spoil=lambda _request: False):
    """Yields the address; `spoil` may answer a request first, and says whether it did."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        server.spoil, server.daemon_threads = spoil, True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
