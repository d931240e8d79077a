"""Takes every picture of README and the documentation anew, from real pages in headless Chromium and from the records.

    python docs/pictures.py [live report review conversion fleet field share zoo leak]

Needs Chromium, Mosquitto (for the fleet) and pip install '.[train,convert,device,fleet,docs]'; takes minutes. The
pages are of daemons on the simulated microscope, so that no data set's picture is copied.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from time import sleep
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "benchmarks"))
from programs import Broker, Program, bloodedge, free_port, wait_until  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
COLOURS = 256
"""Of a picture's palette: keeps each below 400 kB."""
CELLS_SHOWN = 3
"""The live page is taken when its frame shows so many cells."""


def save(name: str, png: bytes) -> None:
    """Write a picture with a palette of its own."""
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(DOCS / f"{name}.png", optimize=True)
    print(f"docs/{name}.png: {(DOCS / f'{name}.png').stat().st_size // 1000} kB")


@contextmanager
def browser(width: int, height: int) -> Iterator[Page]:
    """A page of headless Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium.new_page(viewport={"width": width, "height": height})
        chromium.close()


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        urlopen(url, timeout=2).close()  # noqa: S310  # this machine's own page
    except (URLError, OSError):
        return False
    return True


def status(page: str) -> dict[str, Any]:
    """The daemon's own account of itself."""
    with urlopen(f"{page}/api/v1/status", timeout=10) as reply:  # noqa: S310  # likewise
        return dict(json.load(reply))


@contextmanager
def daemon(folder: Path, more: str = "", camera: str = "") -> Iterator[str]:
    """A daemon on the simulated microscope; gives its page's address."""
    port = free_port()
    folder.mkdir()
    config = folder / "device.toml"
    config.write_text(f'state = "state"\n[web]\nport = {port}\n[store]\ncrops = true\n[camera]\n{camera}\n{more}')
    page = f"http://127.0.0.1:{port}"
    with Program(bloodedge("device", "run", "--config", config), folder / "log") as running:
        wait_until(lambda: answers(f"{page}/healthz"), 60, "the daemon does not answer")
        yield page
        running.stop()


def live(folder: Path) -> None:
    """The live page, once its frame shows some cells and the slide has its share."""
    with daemon(folder / "live", camera="rate = 4") as page, browser(1280, 900) as tab:
        wait_until(lambda: (status(page)["slide"] or {}).get("cells_total", 0) > 80, 240, "the slide has no cells")
        tab.goto(page)
        for _ in range(200):
            if tab.locator(".cell:not(.repeated)").count() >= CELLS_SHOWN:
                break
            sleep(0.25)
        save("live", tab.screenshot(full_page=True))


def slide(folder: Path) -> None:
    """A slide's report, and its review."""
    with daemon(folder / "slide") as page:
        wait_until(lambda: (status(page)["slide"] or {}).get("cells_total", 0) > 80, 240, "the slide has no cells")
        with browser(1280, 800) as tab:
            tab.goto(f"{page}/review/1")
            save("review", tab.screenshot())
    report = folder / "report.html"
    subprocess.run(bloodedge("device", "report", "--state", folder / "slide" / "state", "--html", report), check=True)
    with browser(1100, 900) as tab:
        tab.goto(report.as_uri())
        save("report", tab.screenshot())


def conversion(folder: Path) -> None:
    """The conversion report of the released bundle."""
    report = folder / "conversion.html"
    subprocess.run(bloodedge("report", ROOT / "models" / "cells.bundle", "--out", report), check=True)
    with browser(1100, 1200) as tab:
        tab.goto(report.as_uri())
        save("conversion", tab.screenshot())


def fleet(folder: Path) -> None:
    """The fleet's page of three daemons on this machine."""
    (folder / "broker").mkdir()
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    with Broker(folder / "broker") as broker:
        serve = ["--broker", broker.address, "--state", folder / "fleet", "--listen", f"127.0.0.1:{port}"]
        with Program(bloodedge("fleet", "serve", *serve), folder / "fleet.log"):
            mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nreport_s = 10\nboard = "bench-'
            with (
                daemon(folder / "one", f'{mqtt}1"', "rate = 2"),
                daemon(folder / "two", f'{mqtt}2"', "rate = 1"),
                daemon(folder / "three", f'{mqtt}3"', "rate = 1"),
                browser(1180, 600) as tab,
            ):
                wait_until(lambda: answers(page), 60, "the fleet's server does not answer")
                sleep(40)
                tab.goto(page)
                save("fleet", tab.screenshot(full_page=True))


def field(folder: Path) -> None:
    """Rendered fields, what the finder finds, what the network gets."""
    target = folder / "field.png"
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "strip.py"), str(target)], check=True)
    save("field", target.read_bytes())


def share(folder: Path) -> None:
    """Simulated slides, from the record."""
    from share import plot

    target = folder / "share.png"
    plot(record("share")["simulated"], target)
    save("share", target.read_bytes())


def zoo(_: Path) -> None:
    """The paper's networks, from the record."""
    save("zoo", chart("zoo_small", "figures.png"))


def leak(_: Path) -> None:
    """One network, split by image and by group, from the record."""
    save("leak", chart("leak", "leak.png"))


def record(name: str) -> dict[str, Any]:
    """A benchmark's record."""
    return dict(json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()))


def chart(name: str, file: str) -> bytes:
    """One of compare's charts, as PNG, of the rows in a record."""
    from bloodedge.bundle.evaluation_record import LatencyMs
    from bloodedge_train.compare.charts import all_charts
    from bloodedge_train.compare.rows import Row
    from bloodedge_train.compare.theme import LIGHT

    absent = {"data": "", "scored_on": "", "latency_ms": LatencyMs(p50=0, p95=0, p99=0), "histories": []}
    rows = [
        Row.model_validate(absent | {name: value for name, value in row.items() if name in Row.model_fields})
        for row in record(name)["rows"]
    ]
    return next(one for one in all_charts(rows) if one.file == file).png(LIGHT)


PICTURES: dict[str, Callable[[Path], None]] = {
    "live": live,
    "report": slide,
    "review": slide,
    "conversion": conversion,
    "fleet": fleet,
    "field": field,
    "share": share,
    "zoo": zoo,
    "leak": leak,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PICTURES), choices=list(PICTURES))
    for take in dict.fromkeys(PICTURES[name] for name in parser.parse_args().names):
        with tempfile.TemporaryDirectory(prefix="bloodedge-pictures-") as folder:
            take(Path(folder))


if __name__ == "__main__":
    main()
