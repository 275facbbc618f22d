import pytest
import yaml

from learned_opt import RuleConfig, UpdateRule, load_checkpoint, save_checkpoint, shipped_names
from learned_opt.card import model_card
from learned_opt.checkpoint import SHIPPED
from learned_opt.memory import MomentsConfig

FACTS = {
    "seed": 1,
    "loss": None,
    "families": ["digits", "a|b"],
    "meta_training": {"pairs": 8, "rule": {"hidden": 99}},
    "rule": "ours",
    "c|d": {"e\nf": 1},
}


def card(facts: dict | None = None, config: RuleConfig | None = None, **options: str) -> str:
    rule = UpdateRule(config)
    return model_card("mine", rule.config, rule.init_meta(), facts or {}, **options)


def header(text: str) -> dict[str, object]:
    return yaml.safe_load(text.split("---")[1])


def test_facts_are_a_table_without_the_rule_again() -> None:
    text = card(FACTS)
    for row in (
        "| seed | 1 |",
        "| loss | null |",
        "| families | digits, a\\|b |",
        "| meta_training.pairs | 8 |",
        "| rule | ours |",
        "| c\\|d.e f | 1 |",
        "| memory.kind | flt |",
        "| memory.betas | 0.9, 0.99, 0.999 |",
    ):
        assert f"\n{row}\n" in f"{text}\n"
    assert "| 99 |" not in text
    assert "Nothing was recorded" in card()


@pytest.mark.parametrize(("config", "floats"), [(RuleConfig(), 8), (RuleConfig(memory=MomentsConfig()), 4)])
def test_it_says_what_the_state_takes(config, floats) -> None:
    assert UpdateRule(config).floats_per_parameter == floats
    text = " ".join(card(config=config).split())
    assert f"takes {floats} floats for each parameter, {4 * floats} bytes, or {2 * floats} with" in text


def test_the_header_names_the_library_and_the_licence() -> None:
    assert header(card())["license"] == "unknown"
    assert header(card({"license": "mit"}))["license"] == "mit"
    assert header(card(origin="shipped"))["license"] == "apache-2.0"
    assert header(card({"license": "a: b\nc"}))["license"] == "a: b\nc"
    assert header(card())["library_name"] == "learned-opt"


def test_usage_fits_where_the_card_is_read() -> None:
    assert 'from_pretrained("path/to/mine", model' in card()
    assert 'from_pretrained("mine", model' in card(origin="shipped")
    assert 'snapshot_download("mine")' in card(origin="hub")


def test_a_rule_that_goes_by_the_number_of_steps_is_given_it() -> None:
    text = card(config=RuleConfig(progress=True, default_lr=0.5), origin="shipped")
    assert 'from_pretrained("mine", model.parameters(), total_steps=1000)' in text
    assert "`lr` is 0.5 by default" in text
    assert "total_steps" not in card()


@pytest.mark.parametrize("name", shipped_names())
def test_the_cards_that_ship_are_current(name) -> None:
    checkpoint = load_checkpoint(name)
    expected = model_card(name, checkpoint.config, checkpoint.meta, checkpoint.facts, origin="shipped")
    assert (SHIPPED / name / "README.md").read_text() == expected


def test_a_card_is_saved_with_every_rule(tmp_path) -> None:
    rule = UpdateRule()
    save_checkpoint(tmp_path / "mine", rule.config, rule.init_meta(), FACTS)
    assert (tmp_path / "mine" / "README.md").read_text() == card(FACTS)
