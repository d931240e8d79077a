"""Writes every figure of the documentation from its record, and the tables of rooms from the packages themselves.

    python docs/results.py            writes what is out of date
    python docs/results.py --check    writes nothing; exits with 1 if something is out of date

It writes results.md, experiments.md, scale.md, architecture.md, and the marked blocks of README.md and
models/README.md. The prose is in templates/*.md.j2; the records are benchmarks/results/*.json and the manifests of
models/*.bundle. In a template, ``least(value, goal, text)`` and ``most(value, goal, text)`` give the text, bold and
called missed if the goal is missed.
"""

import argparse
import ast
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).parent / "templates"
PAGES = ("results", "experiments", "scale", "architecture")
MODELS = ROOT / "models" / "README.md"
BLOCKS = {"headline": ROOT / "README.md", "released": MODELS, "simulated": MODELS}


def records() -> dict[str, Any]:
    """Every record by its file's name, and the manifests of the bundles that come with bloodedge."""
    found = {path.stem: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    found["bundles"] = {}
    for path in (ROOT / "models").glob("*.bundle"):
        with zipfile.ZipFile(path) as bundle:
            manifest = json.loads(bundle.read("manifest.json"))
        found["bundles"][path.stem] = manifest | {"mib": path.stat().st_size / 2**20}
    return found


def num(value: float, digits: int = 3) -> str:
    """A number with so many decimals and thousands apart; no minus before a zero."""
    shown = f"{value:,.{digits}f}"
    return shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown


def figure(figures: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """A figure's value and interval, in the form of either kind of record."""
    value = figures[name]
    if isinstance(value, Mapping):
        return value["value"], value["low"], value["high"]
    return value, *figures["ci95"][name]


def interval(figures: Mapping[str, Any], name: str, digits: int = 3, scale: float = 1) -> str:
    """``0.894 [0.759, 0.949]``."""
    value, low, high = (num(scale * number, digits) for number in figure(figures, name))
    return f"{value} [{low}, {high}]"


def least(value: float, goal: float, text: str) -> str:
    """The text, called missed if the value is below the goal."""
    return text if value >= goal else f"**{text}: missed**"


def most(value: float, goal: float, text: str) -> str:
    """The text, called missed if the value is above the goal."""
    return text if value <= goal else f"**{text}: missed**"


def keyed(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The rows by one of their fields."""
    return {row[key]: row for row in rows}


def called(rates: Mapping[str, Any], kind: str, answer: str) -> int:
    """Of a kind's cells in a bundle's table of rates, how many were given this answer."""
    return sum(person[answer] for person in rates[kind].values())


def rooms(package: str) -> list[tuple[str, str]]:
    """Each room of a package with its job, the first sentence of its docstring, in the order that the tests hold."""
    tree = ast.parse((ROOT / "tests" / "core" / "test_rooms.py").read_text())
    orders = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
    )
    folder = next(ROOT.glob(f"{package}/__init__.py"), None) or next(ROOT.glob(f"*/{package}/__init__.py"))
    found = []
    for name in orders[package].split():
        files = (folder.parent / f"{name}.py", folder.parent / name / "__init__.py")
        found += [(name, job(path)) for path in files if path.exists()]
    return found


def files(folder: str) -> list[tuple[str, str]]:
    """Each file of a room with its job."""
    return [(path.name, job(path)) for path in sorted((ROOT / folder).glob("*.py")) if path.stem != "__init__"]


def job(path: Path) -> str:
    """What a module is for: the first paragraph of its docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ").replace("``", "`").rstrip(".")


def rendered() -> dict[Path, str]:
    """What each file should hold, by path."""
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(  # noqa: S701  # Markdown, not HTML
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"num": num, "interval": interval}
    environment.globals |= {
        "least": least,
        "most": most,
        "figure": figure,
        "keyed": keyed,
        "called": called,
        "rooms": rooms,
        "files": files,
    }
    known = records()

    def page(name: str) -> str:
        return environment.get_template(f"{name}.md.j2").render(known)

    note = "<!-- Written by docs/results.py from docs/templates/{}.md.j2: edit that file. -->\n\n"
    texts = {ROOT / "docs" / f"{name}.md": note.format(name) + page(name) + "\n" for name in PAGES}
    for name, path in BLOCKS.items():
        before, mark, after = texts.get(path, path.read_text()).partition(f"<!-- figures: {name} -->\n")
        _, end, rest = after.partition("\n<!-- end -->")
        if not mark or not end:
            raise SystemExit(f"{path.name} has no block for the figures {name!r}")
        texts[path] = before + mark + page(name) + end + rest
    return texts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = {path: text for path, text in rendered().items() if not path.is_file() or path.read_text() != text}
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Out of date: {names}. Run: python docs/results.py")
    for path, text in stale.items():
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
