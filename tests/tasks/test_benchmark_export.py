import re
import shutil
import subprocess

import pytest

from tasks.benchmark.report.export import Table, latex_table, markdown_table, write_tables
from tests.tasks.simulated import noisy_curve, simulated

AWKWARD = r"a_b & 50% #1 $x$ {y} ~z^2 \alpha <co> | `tick` *star* [1] “q” – ≥ × "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")

    def curve(cell):
        return None if cell.optimizer == "adamw" and cell.task == "one_two" else noisy_curve(cell) - 2

    results = simulated(tasks=("one_two", "three"), labels={"ours": r"Ours_&<co>|50%"}, curve=curve)
    write_tables(results, folder)
    return folder


def markdown_cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_holds_a_table_over_all_tasks_and_one_for_each(folder):
    text = (folder / "tables.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == ["All tasks", r"one\_two, 40 steps", "three, 40 steps"]
    for block in re.split(r"^## .*$", text, flags=re.M)[1:]:
        header, rule, *rows = [markdown_cells(line) for line in block.strip().splitlines()]
        assert header[0] == "optimizer"
        assert all(re.fullmatch(r"---:?", cell) for cell in rule)
        assert {len(row) for row in (rule, *rows)} == {len(header)}
        assert len(rows) >= 3
    assert r"Ours\_\&\<co\>\|50%" in text
    assert "none finished" in text


def test_the_lowest_final_loss_is_set_off(folder):
    block = (folder / "tables.md").read_text().split("## three, 40 steps")[1]
    header, _, *rows = [markdown_cells(line) for line in block.strip().splitlines()]
    losses = [float(row[header.index("final loss")].split()[0]) for row in rows]
    strong = [row[0].startswith("**") for row in rows]
    assert sum(strong) >= 1
    assert losses[strong.index(True)] == min(losses)


def test_latex_is_balanced_and_has_equal_columns(folder):
    text = (folder / "tables.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    for name in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}", r"\caption", r"\label"):
        assert text.count(name) == 3, name
    body = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert body.count("{") == body.count("}")
    for columns, inside in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end", text, re.S):
        rows = [line for line in inside.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    assert len(set(re.findall(r"\\label\{(.*)\}", text))) == 3
    assert not re.search(r"[^\x00-\x7f]", text), "what fonts of old lack is written as commands"


def test_awkward_text_is_escaped():
    table = Table(
        "x_y", AWKWARD, ("optimizer", "final loss"), ((AWKWARD, "-1.5e-05 [-2–3]"),), frozenset({0})
    )
    tex = latex_table(table)
    for expected in (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}alpha",
        r"\textless{}co\textgreater{} \textbar{}",
        r"\ensuremath{-}1.5e-05 [\ensuremath{-}2--3]",
        r"\label{tab:benchmark-x-y}",
        r"\textbf{",
    ):
        assert expected in tex
    markdown = markdown_table(table)
    assert r"a\_b \& 50% \#1 \$x\$ \{y\} \~z^2 \\alpha \<co\> \| \`tick\` \*star\* \[1\]" in markdown
    assert markdown.splitlines()[-1].startswith("| **a")


def test_columns_can_be_left_out():
    table = Table("x", "t", ("optimizer", "a", "b"), (("n", "1", "2"),), frozenset({0}))
    assert table.without(("a",)) == Table("x", "t", ("optimizer", "b"), (("n", "2"),), frozenset({0}))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_latex_compiles(folder, tmp_path):
    awkward = latex_table(Table("x", AWKWARD.replace("“q”", '"q"'), ("optimizer",), ((AWKWARD,),)))
    (tmp_path / "awkward.tex").write_text(awkward.replace("“q”", ""))
    (tmp_path / "page.tex").write_text(
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,textcomp}"
        rf"\begin{{document}}\input{{{folder / 'tables.tex'}}}\input{{awkward.tex}}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
