"""What a run leaves behind: `report.html`, `report.json`, the figures as files, and pictures for a README."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from headrace.cli.proof.child import ChildFailed
from headrace.cli.proof.figures.staircase import README, WIDE, staircase
from headrace.cli.proof.figures.svg import Figure
from headrace.cli.proof.report import render
from headrace.cli.proof.results import Report
from headrace.cli.proof.rows import row_figure
from headrace.cli.proof.sections import figures

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
)
_DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
_LIGHT = ("--blink-settings=preferredColorScheme=1",)
PICTURE_S = 60.0


def write(report: Report, folder: Path) -> Path:
    """Write the report into `folder`, and return where the page is."""
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    for name, figure in all_figures(report).items():
        (drawn / f"{name}.svg").write_text(figure.standalone(), "utf-8")
    (folder / "report.json").write_bytes(msgspec.json.encode(report) + b"\n")
    page = folder / "report.html"
    page.write_text(render(report), "utf-8")
    return page


def all_figures(report: Report) -> dict[str, Figure]:
    """Return every figure of the report by the name of its file."""
    found: dict[str, Figure] = {}
    for result in report.results:
        if result.verdict == "not_run":
            continue
        row = row_figure(result)
        if row is not None:
            found[f"{result.letter}-flow-line"] = row
        found |= {f"{result.letter}-{name}": figure for name, figure in figures(result).items()}
    arrival = report.result("arrival")
    if arrival is not None and "buffering" in arrival.traces:
        found["a-staircase"] = staircase(arrival, WIDE)
    return found


def write_images(report: Report, page: Path, folder: Path) -> list[Path]:
    """Write the pictures of a README into `folder`: what buffering does, and the head of the report.

    Raises:
        ChildFailed: there is no browser to take the picture with, or it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    arrival = report.result("arrival")
    if arrival is not None and "buffering" in arrival.traces:
        made.append(folder / "buffering.svg")
        made[-1].write_text(staircase(arrival, README).standalone(), "utf-8")
    made.append(folder / "report-light.png")
    photograph(page, made[-1], width=1360, height=1450)
    return made


def photograph(page: Path, picture: Path, *, width: int, height: int, dark: bool = False, scale: float = 1.5) -> None:
    """Take a PNG of the top of `page`, as wide and high as the window.

    Raises:
        ChildFailed: there is no browser, or it failed.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ChildFailed(f"A browser is missing for the picture: install one of {', '.join(BROWSERS)}.")
    picture.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="headrace-browser-", ignore_cleanup_errors=True) as profile:
        args = [
            browser,
            *_FLAGS,
            *(_DARK if dark else _LIGHT),
            f"--user-data-dir={profile}",
            f"--force-device-scale-factor={scale}",
            f"--window-size={width},{height}",
            f"--screenshot={picture.resolve()}",
            page.resolve().as_uri(),
        ]
        try:
            subprocess.run(args, capture_output=True, timeout=PICTURE_S, check=False)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{browser} took longer than {PICTURE_S:.0f} s for a picture.") from None
    if not picture.exists():
        raise ChildFailed(f"{browser} took no picture of {page}.")
