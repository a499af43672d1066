"""The HTML report in a real browser: headless Chromium, where the machine has one."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from dyslctl.report.html import Figure, Section, render
from dyslctl.report.plots import layer_bars, save
from dyslctl.report.tables import Column, Table

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome-headless-shell")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
ASKED = """
<script>addEventListener("load", () => {
  const style = badge => getComputedStyle(document.querySelector("td .badge." + badge));
  document.body.dataset.seen = JSON.stringify({
    pictures: [...document.images].map(image => image.complete && image.naturalWidth > 0),
    headings: [...document.querySelectorAll("h2")].map(heading => heading.textContent),
    wider: document.documentElement.scrollWidth > innerWidth,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
    badges: ["measured", "predicted", "published"].map(badge => [style(badge).color, style(badge).borderTopStyle]),
  });
});</script>
"""
"""What the browser is asked about the page; the answer is in the document that it dumps."""

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"NO BROWSER: none of {', '.join(NAMES)} is installed, so the report was not opened in one"
)


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A report with a picture, a table wider than any screen, and a row of each source."""
    figure = Figure(save(layer_bars([0.5, 0.9], [0]), tmp_path / "bars.png"), "Layers (Fig. 3).")
    sources = [("full", "measured"), ("dysl", "predicted"), ("dysl", "published")]
    latency = Table("Latency", [Column("method", numeric=False), Column("source", numeric=False)], sources)
    wide = Table("Wide", [Column(f"a long header {index}") for index in range(60)], [["12345.678"] * 60])
    sections = [Section("Latency", "Text.", [latency, wide]), Section("Similarity", "Text.", figures=[figure])]
    return render("A report", sections, ["dyslctl bench"], {"torch": "2"})


def open_page(html: str, folder: Path, *options: str) -> dict[str, object]:
    """What the browser saw of ``html``."""
    path = folder / "page.html"
    path.write_text(html.replace("</body>", f"{ASKED}</body>"), encoding="utf-8")
    fixed = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile",
    )
    command = [str(BROWSER), *fixed, "--virtual-time-budget=5000", "--dump-dom", *options, path.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = re.search(r'data-seen="([^"]*)"', dumped)
    assert seen is not None, dumped[-500:]
    answer: dict[str, object] = json.loads(unescape(seen[1]))
    return answer


@needs_browser
@pytest.mark.parametrize("size", ["1280,900", "420,800"])
def test_a_browser_shows_everything_and_loads_nothing(page: str, tmp_path: Path, size: str) -> None:
    seen = open_page(page, tmp_path, f"--window-size={size}")
    assert seen["pictures"] == [True]
    assert seen["headings"] == ["Latency", "Similarity", "How to get these results again", "Environment"]
    assert seen["wider"] is False, "a wide table scrolls by itself"
    assert seen["loaded"] == []


@needs_browser
def test_published_rows_look_unlike_measured_ones(page: str, tmp_path: Path) -> None:
    badges = open_page(page, tmp_path)["badges"]
    assert isinstance(badges, list)
    colours, borders = zip(*badges, strict=True)
    assert len(set(colours)) == 3 and borders == ("solid", "dashed", "dotted")


@needs_browser
def test_a_damaged_picture_is_seen(page: str, tmp_path: Path) -> None:
    """The test above can fail."""
    broken = re.sub(r"base64,[^\"]+", f"base64,{base64.b64encode(b'no picture').decode()}", page)
    assert open_page(broken, tmp_path)["pictures"] == [False]
