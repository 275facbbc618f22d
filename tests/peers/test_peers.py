"""Other people's tests of optimizers, run on ours: each of theirs that applies is one test here.

Both suites are fetched by name from the package index when these tests run; none of their code is kept here.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from .suite import Suite, UnavailableError
from .suites import SUITES, TIMM

CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"


def name(value: object) -> str:
    return value.project if isinstance(value, Suite) else str(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "case"), [(suite, case) for suite in SUITES for case in suite.passing], ids=name
)
def test_ours_passes(suite, case, verdict) -> None:
    assert case in verdict.outcomes, "they have no such test, or it was deselected"
    outcome = verdict.outcomes[case]
    assert outcome.status == "passed", outcome.message
    assert outcome.built_ours, "it passed without building our class"


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=name)
class TestAccounts:
    def test_nothing_ran_that_is_not_listed(self, suite, verdict) -> None:
        assert set(verdict.outcomes) == set(suite.passing)

    def test_every_reason_holds_for_a_test(self, suite, verdict) -> None:
        assert [beginning for beginning in suite.deselected if not verdict.deselected_by(beginning)] == []

    def test_the_documentation_has_the_counts_and_the_reasons(self, suite, verdict) -> None:
        rows = [(suite.project, suite.version, *verdict.counts())]
        rows += [
            (f"`{beginning}`", verdict.deselected_by(beginning), reason)
            for beginning, reason in suite.deselected.items()
        ]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        documented = CONTRACT.read_text().splitlines()
        missing = [line for line in lines if line not in documented]
        assert not missing, "\n".join(missing)


def test_a_distribution_of_another_digest_is_refused(tmp_path) -> None:
    (tmp_path / f"{TIMM.project}-{TIMM.version}.tar.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"expected {TIMM.sha256}"):
        TIMM.fetch(tmp_path)


def test_a_distribution_that_cannot_be_had_is_no_verdict(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UnavailableError, match=f"cannot fetch {TIMM.project} 0"):
        replace(TIMM, version="0").fetch(tmp_path)
