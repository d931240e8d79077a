"""Opening the page for the person who started the daemon."""

import logging
import os
import sys
import threading
import webbrowser

log = logging.getLogger("bloodedge.device")


def open_in_browser(url: str) -> None:
    """Open an address in the desktop's browser, or say that there is none; does not wait for it."""
    threading.Thread(target=_open, args=(url,), name="browser", daemon=True).start()


def _open(url: str) -> None:
    if not (_has_desktop() and webbrowser.open(url)):
        log.warning("No browser could be opened here; open %s in one.", url)


def _has_desktop() -> bool:
    """Whether a browser would open in a window of its own; one in the terminal would take it from the daemon."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
