"""Rerun's own command line as a child process, to which a recording goes: its app, or its web viewer behind a page.

Rerun's servers listen on every interface unless told otherwise, and only its command line can be told. Its web viewer
tells tel.rerun.io, from the browser, that and how it is used, and has no switch for that: so the page is handed on from
here under a policy by which the browser talks to nobody but this machine.
"""

import contextlib
import errno
import http.server
import importlib.util
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from types import TracebackType

WAIT_SECONDS = 60.0
MEMORY = "2GB"  # of what the server keeps for browsers that come late: then the oldest goes
LOOPBACK = "127.0.0.1"
_FILES = ("/", "/re_viewer.js", "/re_viewer_bg.wasm", "/favicon.ico", "/favicon.svg", "/sw.js")


class ViewerServer:
    """The child, while the `with` lasts. `data_url` takes a recording, `page_url` is to be opened in a browser."""

    def __init__(self, host: str, port: int, *, app: bool) -> None:
        """Listen at `host`: the page at `port` and the data at the port after it; a `port` of 0 takes free ones.

        With `app` the desktop app opens instead, and takes the data itself.

        Raises:
            ValueError: Rerun is not installed, does not start, or a port is taken.
        """
        if importlib.util.find_spec("rerun_cli") is None:
            raise ValueError("Rerun is not installed: pip install 'saccade[viewer]'")
        host = LOOPBACK if host == "localhost" else host  # which is two addresses, or none that Rerun takes
        self._page, self._app = None, app
        port = port or _free_ports(host)
        _need_free(host, port, port + 1)
        self.data_port, inner = port + 1, _free_ports(LOOPBACK)
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the child
        guarded = [sys.executable, "-c", "from runs.viewer_server import guard; guard()"]
        rerun = "import sys; from rerun_cli.__main__ import main; sys.exit(main() & 0xFF)"  # -m loses its exit code
        command = [*guarded, sys.executable, "-c", rerun, "--bind", host, "--port", str(self.data_port)]
        command += ["--hide-welcome-screen"] if app else ["--serve-web", "--web-viewer-port", str(inner)]
        command += [] if app else ["--server-memory-limit", MEMORY]
        if not is_loopback(host):
            command += ["--cors-allow-origin", f"http://*:{port}"]
        # Its command line takes a machine that sets CI for one that must not be counted. A session of its own: Ctrl-C
        # is for this process, which then ends the child and what that has started.
        self._child = subprocess.Popen(
            command,
            env=os.environ | {"CI": "true"},
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )
        self.data_url = f"rerun+http://{_reached(host)}:{self.data_port}/proxy"
        self.page_url = None if app else f"http://{_reached(host)}:{port}"
        try:
            self._wait_for(_reached(host, bracketed=False), self.data_port)
            if not app:
                self._wait_for(_reached(host, bracketed=False), inner)
                self._page = _Page(host, port, self.data_port, f"http://{_reached(host)}:{inner}")
        except BaseException:
            self.close()
            raise

    def _wait_for(self, host: str, port: int) -> None:
        began = time.monotonic()
        while True:
            try:
                socket.create_connection((host, port), timeout=1).close()
                return
            except OSError:
                pass
            if not self.is_alive() or time.monotonic() - began > WAIT_SECONDS:
                hint = " (--web is for a browser)" if self._app else ""
                raise ValueError(f"Rerun's viewer does not start{hint}: {self._last_words()}")
            time.sleep(0.05)

    def is_alive(self) -> bool:
        """Whether the child runs; the app ends when its window is closed."""
        return self._child.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Wait for the child's end, at most so long; return whether it came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)
        return not self.is_alive()

    def trouble(self) -> str | None:
        """Return what a child said last that ended with an error; None of one that runs, or that was closed."""
        return self._last_words() if self._child.poll() and not self._said.closed else None

    def _last_words(self) -> str:
        self._said.seek(0)
        said = [line for line in self._said.read().splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error")]
        return (errors or said or ["it says nothing"])[-1]

    def __enter__(self) -> "ViewerServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child, and what it has started."""
        if self._page is not None:
            self._page.shutdown()
            self._page.server_close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._child.pid, number)
                self._child.wait(timeout=5)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._said.close()


def guard() -> None:
    """Run the command in `sys.argv`, and end it when standard input does: whoever started this is gone, however."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def end_with_parent() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # The thread may hold standard input, which an ordinary exit would wait for.
    os._exit(child.wait() & 0xFF)


class _Page(http.server.ThreadingHTTPServer):
    """Hands on the files of Rerun's web viewer, under a policy that lets them talk to the data alone."""

    daemon_threads = True

    def __init__(self, host: str, port: int, data_port: int, source: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:  # taken since it was looked at
            raise _cannot_listen(host, port, error) from error
        self.data_port, self.source = data_port, source
        threading.Thread(target=self.serve_forever, daemon=True).start()


_STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look on its own machine


class _Handler(http.server.BaseHTTPRequestHandler):
    @property
    def _page(self) -> _Page:
        assert isinstance(self.server, _Page)
        return self.server

    def do_GET(self) -> None:
        """Send a file; the bare address leads to the one that says where the data is."""
        path, _, query = self.path.partition("?")
        if path not in _FILES:
            self.send_error(404)
        elif path == "/" and not query:
            data = f"rerun+http://{self._reached_by()}:{self._page.data_port}/proxy"
            self.send_response(302)
            self.send_header("Location", f"/?url={urllib.parse.quote(data)}&hide_welcome_screen&theme=dark")
            self.end_headers()
        else:
            self._hand_on(path)

    def _reached_by(self) -> str:
        """Return the name that the browser reaches this machine by, which only the browser knows."""
        try:
            name = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            name = ""
        if not re.fullmatch(r"[\w.:-]+", name):  # it goes into the policy, and must not add to it
            name = LOOPBACK
        return f"[{name}]" if ":" in name else name

    def _hand_on(self, path: str) -> None:
        try:
            with _STRAIGHT.open(self._page.source + path, timeout=WAIT_SECONDS) as file:
                body, kind = file.read(), file.headers["Content-Type"]
        except OSError:
            self.send_error(404)
            return
        here = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("rerun-final-length", str(len(body)))
        data = f"http://{self._reached_by()}:{self._page.data_port}"
        policy = f"default-src {here}; connect-src 'self' data: blob: {data}"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reached(host: str, *, bracketed: bool = True) -> str:
    """Return the address at which this machine reaches what listens at `host`."""
    reached = {"0.0.0.0": LOOPBACK, "::": "::1", "localhost": LOOPBACK}.get(host, host)
    return f"[{reached}]" if bracketed and ":" in reached else reached


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except OSError:
        taken.close()
        raise
    return taken


def _free_ports(host: str) -> int:
    """Return a port that is free, as is the one after it."""
    while True:
        try:
            first = _listening(host, 0)
        except OSError as error:
            raise _cannot_listen(host, 0, error) from error
        with first:
            port: int = first.getsockname()[1]
            try:
                _listening(host, port + 1).close()
                return port
            except (OSError, OverflowError):  # the last port has none after it
                continue


def _cannot_listen(host: str, port: int, error: OSError) -> ValueError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ValueError(f"--host {host}: this machine has no such address ({error.strerror})")
    return ValueError(f"cannot listen at {host} port {port} ({error.strerror}): give another --port, or 0 for any")


def _need_free(host: str, *ports: int) -> None:
    for port in ports:
        try:
            _listening(host, port).close()
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
