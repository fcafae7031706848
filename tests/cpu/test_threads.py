"""The number of threads follows the time of steps: with a clock, a neighbour and a torch of the test's own."""

from __future__ import annotations

import pytest
import torch

from ventaja.cpu import FAST, PLAIN
from ventaja.cpu import threads as threads_module
from ventaja.cpu.threads import FIRST_PATIENCE, FIRST_REST, Threads


class Machine:
    """Some cores, of which neighbours take a few; a step of ours waits for a thread that has none."""

    def __init__(self, cores: int) -> None:
        self.cores, self.neighbours = cores, 0
        self.now, self.taken = 0.0, 0
        self.chance = 0.0
        """Preemptions per second that mean nothing."""
        self.ran_on: list[int] = []
        self.threads = Threads(seconds=lambda: self.now, preemptions=lambda: self.taken)

    def steps(self, count: int, kind: str = "decoding") -> list[int]:
        """How many threads each ran on."""
        for _ in range(count):
            with self.threads.step(kind):
                running = torch.get_num_threads()
                is_crowded = running + self.neighbours > self.cores
                seconds = (20.0 if is_crowded else 1.0) / running
                self.now += seconds
                self.taken += int((300 if is_crowded else self.chance) * seconds)
                self.ran_on.append(running)
        return self.ran_on[-count:]


@pytest.fixture(autouse=True)
def _counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says what it was told, without any threads being made."""
    told = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: told.__setitem__(0, count))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_nothing_is_tried_while_nobody_disturbs() -> None:
    assert set(Machine(2).steps(5000)) == {2}


def test_a_few_preemptions_are_chance() -> None:
    machine = Machine(2)
    machine.chance = 100.0
    assert set(machine.steps(5000)) == {2}


def test_a_neighbour_that_comes_during_a_rest_does_not_ruin_it() -> None:
    machine = Machine(2)
    machine.steps(10)
    machine.neighbours = 2  # fewer threads do not help
    machine.steps(200)
    machine.neighbours = 0
    machine.steps(5)
    machine.neighbours = 1
    # the first step tells, whatever is left of the rest
    assert machine.steps(5) == [2] + [1] * 4


def test_a_neighbour_gets_a_core_and_gives_it_back() -> None:
    machine = Machine(2)
    machine.steps(10)
    machine.neighbours = 1
    # the first step beside it tells, the second is timed with one thread, and stays
    assert machine.steps(10) == [2] + [1] * 9
    machine.neighbours = 0
    after = machine.steps(2 * FIRST_PATIENCE)
    assert after[-1] == 2
    assert after.index(2) <= FIRST_PATIENCE
    assert set(after[after.index(2) :]) == {2}


def test_most_of_the_speed_is_kept_beside_it() -> None:
    machine = Machine(2)
    machine.neighbours = 1
    machine.steps(1000)
    # alone a step takes 1/2, with one thread 1, crowded 10: trials are rare enough to keep 2/5 of the quiet speed
    assert 1000 * 0.5 / machine.now > 0.4


def test_of_many_cores_only_what_is_taken_is_given() -> None:
    torch.set_num_threads(16)
    machine = Machine(16)
    machine.neighbours = 1
    machine.steps(200)
    assert machine.threads.count == 15
    machine.neighbours = 7  # more than half are left: 8 are the next that are tried
    machine.steps(20)
    assert machine.threads.count == 8


def test_fewer_threads_that_do_not_help_are_seldom_tried() -> None:
    """As where the neighbours take every core whatever we do."""
    machine = Machine(2)
    machine.neighbours = 2
    ran_on = machine.steps(500)
    # one of the first steps, and then after 8, 16, 32, 64, 64, … more
    assert 0 < ran_on.count(1) < 500 / FIRST_REST / 4


def test_steps_of_another_kind_are_not_compared() -> None:
    machine = Machine(2)
    machine.neighbours = 1
    machine.steps(1)
    machine.steps(3, kind="training")  # on trial all the while, and no verdict
    assert machine.threads._trial is not None
    machine.steps(1)
    assert machine.threads._trial is None
    assert machine.threads.count == 1


def test_a_stated_number_is_kept_and_so_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2)
    machine.neighbours = 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert set(machine.steps(50)) == {2}
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    assert set(machine.steps(50)) == {1}


def test_torchs_number_is_as_before_outside_of_steps_and_a_new_one_is_taken() -> None:
    machine = Machine(4)
    machine.neighbours = 3
    machine.steps(50)
    assert (machine.threads.count, torch.get_num_threads()) == (1, 2)
    torch.set_num_threads(4)
    assert machine.steps(1) == [4]
    with pytest.raises(KeyError), machine.threads.step("decoding"):
        raise KeyError
    assert torch.get_num_threads() == 4


def test_plain_leaves_the_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(threads_module.THREADS, "_learn", lambda *what: asked.append(what))
    for cpu in (PLAIN, FAST):
        with cpu.step("decoding", 3):
            pass
    assert len(asked) == 1


def test_the_system_counts() -> None:
    assert threads_module._preemptions() >= 0
