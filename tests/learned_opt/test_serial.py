import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learned_opt import FLTConfig, MomentsConfig, RuleConfig
from learned_opt.memory import FLTV1Config, LSTMConfig, PerformerConfig, S4DConfig
from learned_opt.memory.flt import READINGS
from learned_opt.serial import from_json, to_json

factor = st.floats(1e-6, 1 - 1e-6)
factors = st.lists(factor, min_size=1).map(tuple)
moments = st.builds(MomentsConfig, betas=factors, second_beta=factor, mixed_betas=factors | st.just(()))
waves = st.lists(st.tuples(factor, st.floats(1e-6, 0.5)), max_size=4)
flt = st.builds(
    lambda pairs, reading: FLTConfig(
        wave_betas=tuple(beta for beta, _ in pairs),
        wave_frequencies=tuple(frequency for _, frequency in pairs),
        reading=reading,
    ),
    waves,
    st.sampled_from(READINGS),
)
heads = st.lists(st.tuples(factor, st.integers(0, 5)), min_size=1).map(
    lambda pairs: {
        "betas": tuple(beta for beta, _ in pairs),
        "features": tuple(count for _, count in pairs),
    }
)
performer = heads.map(lambda options: PerformerConfig(**options))
flt_v1 = heads.map(lambda options: FLTV1Config(**options, wave_frequencies=(0.1, 0.5)))
s4d = st.builds(S4DConfig, beta=factor, step_sizes=factors, heads=st.integers(1, 9))
lstm = st.builds(LSTMConfig, beta=factor, unit_betas=factors, heads=st.integers(1, 9))
rules = st.builds(
    RuleConfig,
    memory=flt | flt_v1 | performer | s4d | lstm | moments,
    hidden=st.integers(1, 99),
    directions=st.integers(1, 9),
    scale=st.sampled_from(["none", "rms", "adam"]),
    epsilon=st.floats(0, 1e300),
)


@given(rules)
def test_every_configuration_survives_json(config: RuleConfig) -> None:
    assert from_json(RuleConfig, json.loads(json.dumps(to_json(config))), "rule") == config


def spoiled(**changes: object) -> dict[str, object]:
    return {**to_json(RuleConfig()), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "rule is None; expected an object"),
        (spoiled(hiden=1), r"unknown field of rule 'hiden'.*did you mean 'hidden'\?"),
        ({k: v for k, v in spoiled().items() if k not in ("hidden", "scale")}, "rule lacks hidden, scale"),
        (spoiled(hidden="12"), "rule.hidden is '12'; expected int"),
        (spoiled(hidden=True), "rule.hidden is True; expected int"),
        (spoiled(hidden=1.5), "rule.hidden is 1.5; expected int"),
        (spoiled(epsilon=None), "rule.epsilon is None; expected float"),
        (spoiled(scale="lamb"), "rule.scale is 'lamb'; expected one of none, rms, adam"),
        (spoiled(hidden=0), "hidden=0"),
        (
            spoiled(memory={"betas": [0.9]}),
            "rule.memory has no 'kind'; expected one of flt, flt-v1, performer",
        ),
        (spoiled(memory={"kind": "ftl"}), r"unknown kind of rule.memory 'ftl'.*did you mean 'flt'\?"),
        (spoiled(memory={"kind": "moments", "betas": 0.9, "second_beta": 0.9}), "rule.memory.betas is 0.9"),
        (spoiled(memory={"kind": "moments", "betas": [2.0], "second_beta": 0.9}), "2.0 is outside"),
    ],
)
def test_documents_that_are_refused(document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(RuleConfig, document, "rule")


def test_an_integer_is_a_float_too() -> None:
    config = from_json(RuleConfig, spoiled(epsilon=0), "rule")
    assert isinstance(config.epsilon, float)


def test_what_configurations_did_not_always_have_is_left_out_at_its_default() -> None:
    plain, mixed = MomentsConfig(), MomentsConfig(mixed_betas=(0.5,))
    assert to_json(plain) == {"kind": "moments", "betas": [0.9, 0.99, 0.999], "second_beta": 0.999}
    assert to_json(mixed)["mixed_betas"] == [0.5]
    assert from_json(MomentsConfig, {"betas": [0.8], "second_beta": 0.9}, "memory") == MomentsConfig(
        (0.8,), 0.9
    )
