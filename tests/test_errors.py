"""The hint that an error gives."""

from ventaja.errors import did_you_mean


def test_the_nearest_name_is_offered_and_a_far_one_is_not() -> None:
    assert did_you_mean("GRPOO", ["dapo", "grpo"]) == " Did you mean 'grpo'?"
    assert did_you_mean("zzz", ["dapo", "grpo"]) == ""
