from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.fleet import Fleet
from meta_train.ranks import Ranks


def test_units_of_a_family_share_what_is_compiled() -> None:
    config = MetaTrainConfig(
        families=("quadratic", "quadratic-noisy"), pairs=3, unit_pairs=1, validation=("digits-conv",)
    )
    rule = UpdateRule(config.rule)
    fleet = Fleet(config, rule, rule.init_meta(), Ranks())
    steps = {
        family: {fleet.units[index].inner_step for index in range(6) if config.units[index] == family}
        for family in config.families
    }
    assert [len(each) for each in steps.values()] == [1, 1]
    assert not set.intersection(*steps.values())
