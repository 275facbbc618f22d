import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_readme_shows_the_benchmark_that_is_recorded():
    figures = runpy.run_path(str(ROOT / "results/figures.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- core: ") == text.count("<!-- /core -->") == 2
    assert figures["updated"](text, figures["load_results"](figures["CORE"])) == text, "run `make figures`"
