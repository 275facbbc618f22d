import pytest

from tasks.benchmark.contestants.libraries import class_name, library_names
from tasks.benchmark.contestants.usual_rates import USUAL_RATES, usual_rates


def test_a_sweep_is_centred_tenfold_above_the_default_where_nothing_else_is_known():
    assert usual_rates("Unheard", 0.02) == (0.02, 0.2)
    assert usual_rates("Unheard") == (1e-3, 1e-2)
    assert usual_rates("Lion", 0.5) == (1e-4, 1e-3)


def test_the_table_names_classes_that_exist():
    pytest.importorskip("pytorch_optimizer")
    known = {class_name(library, name) for library in ("timm", "po") for name in library_names(library)}
    assert set(USUAL_RATES) <= known


@pytest.mark.parametrize("name", USUAL_RATES)
def test_defaults_lie_within_the_sweep(name):
    default, centre = USUAL_RATES[name]
    assert centre / 100 <= default <= centre
