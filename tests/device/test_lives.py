"""How kernels and the process that they belong to end, stop for a while, and leave others their turn.

Each test runs a scenario in a process of its own, and can at worst be left by it.
"""

import signal

import pytest

from tests.device import scenarios
from tests.device.scenarios import Apart, seconds_until

FIRST = 60
"""Seconds that a process may take until its first kernels live: it compiles."""
QUANTUM = 0.5
"""Seconds after which a kernel on a GPU makes room for others, unless its definition says otherwise."""
BOUND = QUANTUM + 0.05


@pytest.fixture(autouse=True)
def no_hang():
    """Instead of the alarm of the other tests, whose patience is less than that of these: a limit at each step."""


class Lives:
    backend: str

    @pytest.mark.parametrize("quantum", ["default", 0.02, None])
    def test_a_process_that_was_stopped_goes_on(self, quantum):
        options = {} if quantum == "default" else {"quantum": quantum}
        with Apart("resident", self.backend, options) as actors:
            actors.line(FIRST)
            actors.signal(signal.SIGSTOP)
            self.while_stopped()
            actors.latest()
            actors.signal(signal.SIGCONT)
            first = actors.line(20)["answers"]
            assert actors.line(10)["answers"] == first + 1

    def while_stopped(self):
        """What is to be seen of a process that does not run."""

    def test_others_can_use_the_machine_meanwhile(self):
        took = scenarios.seconds_of_calls(self.backend)
        assert {name: seconds for name, seconds in took.items() if seconds > BOUND} == {}

    def test_without_a_quantum_a_kernel_stays(self):
        with Apart("strict", self.backend) as strict:
            assert strict.line(FIRST) == {"stayed": True, "asked": 1, "left": True}
            assert strict.end(20) == 0, strict.errors

    def test_a_step_that_does_not_come_back_does_not_keep_the_process(self):
        with Apart("never_returns", self.backend) as endless:
            assert endless.line(FIRST) == {"began": True}
            assert endless.line(20) == {"state": "TERMINATED"}
            assert endless.line(20) == {"closed": True}
            assert endless.end(20) == 0, endless.errors

    def test_an_interrupt_ends_everything(self):
        with Apart("interrupted", self.backend) as actors:
            assert actors.line(FIRST) == {"ready": True}
            actors.signal(signal.SIGINT)
            assert actors.line(20) == {"interrupted": True}
            assert actors.end(20) == 0, actors.errors

    def test_a_process_may_end_with_its_runtime_open(self):
        with Apart("left_open", self.backend) as actors:
            assert actors.line(FIRST) == {"ready": True}
            assert actors.end(20) == 0, actors.errors

    def test_an_index_out_of_bounds_fails_where_it_is_checked(self):
        with Apart("out_of_bounds", self.backend, True) as actors:
            assert actors.line(FIRST) == {"asked": "tally", "reply": 0}
            failed = actors.line(20)
            assert failed["asked"] == "pick"
            assert "IndexError" in failed["error"]
            assert actors.line(20) == {"state": "FAILED"}
            assert actors.line(20) == {"asked": "tally", "reply": 1}
            assert actors.line(20) == {"asked": "tally", "reply": 2}
            assert actors.end(20) == 0, actors.errors


@pytest.mark.needs_numba
class TestCpuLives(Lives):
    backend = "cpu"


@pytest.mark.needs_numba
@pytest.mark.needs_cuda_compiler
class TestStandInLives(Lives):
    backend = "stand-in"


@pytest.mark.needs_gpu
class TestGpuLives(Lives):
    backend = "cuda"

    def while_stopped(self):
        """The kernels leave by themselves: at the end of their quantum, or when nobody renews their lease."""
        seconds_until(lambda: scenarios.utilization() == 0, patience=20)

    @pytest.mark.parametrize("quantum", ["default", None])
    def test_a_process_that_is_killed_frees_the_gpu(self, quantum):
        options = {} if quantum == "default" else {"quantum": quantum}
        assert scenarios.seconds_to_free_the_gpu(self.backend, options) <= 2
        with Apart("resident", self.backend, options) as actors:
            actors.line(FIRST)

    def test_an_index_out_of_bounds_that_is_not_checked_is_told_clearly(self):
        """It reads what is not there, and CUDA gives the whole context up: the process has to be restarted."""
        with Apart("out_of_bounds", self.backend, False) as actors:
            assert actors.line(FIRST) == {"asked": "tally", "reply": 0}
            failed = actors.line(20)
            assert failed["asked"] == "pick"
            assert "ILLEGAL_ADDRESS" in failed["error"]
            assert "boundscheck" in failed["error"]
            assert actors.line(20) == {"state": "FAILED"}
            for n in (1, 2):  # others live on, or say what to do
                other = actors.line(30)
                assert other.get("reply") == n or "restart" in other["error"].lower()
            assert actors.end(20) == 0, actors.errors
