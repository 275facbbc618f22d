import functools
import multiprocessing
import operator
import os
import time

import pytest

from tasks.benchmark.workers import WorkerDied, run_jobs

call = functools.partial  # a job that a worker calls: operator.call(operator.call, job) is job()


def outcomes(jobs, workers):
    return dict(run_jobs(operator.call, operator.call, jobs, workers=workers))


def test_every_job_is_answered_and_a_dying_process_costs_one():
    jobs = [call(abs, -1), call(os._exit, 3), call(os.abort)]
    found = outcomes(jobs, workers=1)
    assert found[0] == 1
    assert isinstance(found[1], WorkerDied)
    assert "exit status 3" in str(found[1])
    assert "SIGABRT" in str(found[2])
    assert not multiprocessing.active_children()


def test_no_jobs_start_no_workers():
    assert outcomes([], workers=2) == {}


def test_closing_early_ends_the_processes():
    running = run_jobs(operator.call, operator.call, [call(abs, -1), call(time.sleep, 60)], workers=1)
    assert next(running) == (0, 1)
    running.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_start_is_an_error_that_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"could not start .*__main__"):
        outcomes_of_broken_context()


def outcomes_of_broken_context():
    return list(run_jobs(operator.call, Unpicklable(), [1], workers=1))


class Unpicklable:
    def __reduce__(self):
        return os._exit, (1,)
