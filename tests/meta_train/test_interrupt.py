import signal
import threading

import pytest

from meta_train.interrupt import InterruptFlag


def test_the_first_interrupt_is_a_wish_and_the_second_an_order() -> None:
    heard = []
    previous = signal.getsignal(signal.SIGINT)
    with InterruptFlag(lambda: heard.append(True)) as flag:
        assert not flag.raised
        signal.raise_signal(signal.SIGINT)
        assert flag.raised
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == [True]
    assert signal.getsignal(signal.SIGINT) is previous


def test_a_process_forked_from_it_leaves_it_alone() -> None:
    told: list[str] = []
    with InterruptFlag(lambda: told.append("told")) as flag:
        flag._process += 1
        signal.raise_signal(signal.SIGINT)
    assert not flag.raised
    assert not told


def test_it_does_nothing_in_another_thread() -> None:
    outcome = []

    def work() -> None:
        with InterruptFlag() as flag:
            outcome.append(flag.raised)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]
