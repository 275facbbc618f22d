"""The page of a benchmark in a browser: it renders, sorts, loads nothing and fits a phone."""

import io
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from PIL import Image

from tasks.benchmark.report.write import write_report
from tests.tasks.made_up import NAMES, made_up_results

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")
PROBE = """
<script>
const report = {};
const column = (table, title) => [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === title);
const order = (table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const table = document.querySelector("table.sortable");
report.before = order(table);
const sortBy = (title) => {
  const cell = table.tHead.rows[0].cells[column(table, title)];
  cell.querySelector("button").click();
  return { order: order(table), sort: cell.getAttribute("aria-sort") };
};
report.name = sortBy("optimizer");
report.again = sortBy("optimizer");
report.speed = sortBy("speed-up, tuned");
report.sorted = table.querySelectorAll("[aria-sort]").length;
report.tables = document.querySelectorAll("table.sortable").length;
report.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
report.empty = [...document.querySelectorAll("figure svg")].filter((svg) => !svg.innerHTML.trim()).length;
for (const one of document.querySelectorAll("details")) one.open = true;
report.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
report.width = document.documentElement.clientWidth;
const found = document.createElement("pre");
found.id = "probe";
found.textContent = JSON.stringify(report);
document.body.append(found);
if (parent !== window) parent.postMessage(found.textContent, "*");
</script>
"""


PHONE = """<!DOCTYPE html>
<iframe src="probe.html" style="width: 390px; height: 844px; border: 0"></iframe>
<pre id="probe"></pre>
<script>onmessage = (event) => { document.getElementById("probe").textContent = event.data; };</script>
"""  # no window of the browser is narrower than 500 pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    write_report(made_up_results(("rastrigin-2", "quadratic")), out)
    text = (out / "index.html").read_text()
    (out / "probe.html").write_text(text.replace("</body>", f"{PROBE}</body>"))
    (out / "phone.html").write_text(PHONE)
    return out


def browse(folder, page, *options):
    """Run the browser on a page of the folder; its output, and what it logged."""
    command = [
        CHROMIUM or "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        (folder / page).as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    return done.stdout


def probe(folder, *options, page="probe.html"):
    html = browse(folder, page, "--dump-dom", *options)
    (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', html)
    return json.loads(unescape(found))


@pytest.fixture(scope="module")
def wide(folder):
    return probe(folder, "--window-size=1280,900")


def test_a_click_on_a_title_sorts_the_table(wide):
    names = sorted(NAMES.values(), key=str.casefold)
    assert wide["before"][0] == "Ours & <co>"
    assert wide["name"] == {"order": names, "sort": "ascending"}
    assert wide["again"] == {"order": names[::-1], "sort": "descending"}


def test_numbers_sort_as_numbers_the_largest_first_and_gaps_last(wide):
    assert wide["speed"]["sort"] == "descending"
    assert wide["speed"]["order"] == wide["before"]
    assert wide["speed"]["order"][-1] == "Broken"
    assert wide["sorted"] == 1


def test_every_table_and_figure_is_there_and_nothing_is_loaded(wide):
    assert wide["tables"] == 4  # over all tasks, on each of two, and the chosen settings
    assert wide["empty"] == 0
    assert wide["loaded"] == []


def test_it_fits_a_phone_with_all_details_open(folder):
    found = probe(folder, "--virtual-time-budget=2000", page="phone.html")
    assert found["width"] == 390
    assert found["overflow"] <= 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_renders(folder, scheme):
    picture = folder / f"{scheme}.png"
    setting = {"dark": 0, "light": 1}[scheme]
    browse(
        folder,
        "index.html",
        "--window-size=1280,1800",
        f"--blink-settings=preferredColorScheme={setting}",
        f"--screenshot={picture}",
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("L"))
    assert pixels.shape == (1800, 1280)
    ground = np.median(pixels)
    assert (ground < 60) == (scheme == "dark")
    assert 0.02 < np.mean(np.abs(pixels.astype(int) - ground) > 60) < 0.5
