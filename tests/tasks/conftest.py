import pytest

from tasks import MissingDatasetError, load_dataset


@pytest.fixture
def fashion_mnist():
    try:
        return load_dataset("fashion-mnist")
    except MissingDatasetError as error:
        pytest.skip(str(error))
