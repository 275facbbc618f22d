import functools
import multiprocessing
import operator
import os
import time
from collections import deque

import pytest

from tasks.benchmark.running.workers import TimeLimitReached, WorkerDied, run_jobs

call = functools.partial  # a job that a worker calls: operator.call(operator.call, job) is job()


def run(jobs, workers=1, **options):
    return run_jobs(operator.call, operator.call, deque(jobs), workers=workers, **options)


def test_every_job_is_answered_and_a_dying_process_costs_one():
    jobs = [call(abs, -1), call(os._exit, 3), call(os.abort)]
    found = {job.func: outcome for job, outcome in run(jobs)}
    assert found[abs] == 1
    assert isinstance(found[os._exit], WorkerDied)
    assert "exit status 3" in str(found[os._exit])
    assert "SIGABRT" in str(found[os.abort])
    assert not multiprocessing.active_children()


def test_a_job_that_takes_too_long_is_stopped_and_the_rest_goes_on():
    found = {
        job.func: outcome for job, outcome in run([call(time.sleep, 600), call(abs, -1)], time_limit=2.0)
    }
    assert isinstance(found[time.sleep], TimeLimitReached)
    assert str(found[time.sleep]) == "stopped after 2 seconds"
    assert found[abs] == 1
    assert not multiprocessing.active_children()


def test_jobs_may_be_added_and_removed_while_outcomes_come():
    jobs = deque([call(abs, -1), call(abs, -2), call(abs, -3)])
    found = []
    for _, outcome in run_jobs(operator.call, operator.call, jobs, workers=1):
        found.append(outcome)
        if outcome == 1:
            jobs.clear()
            jobs.append(call(abs, -4))
    assert found == [1, 4]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin processes")
def test_workers_that_fill_the_machine_stay_on_one_core_each():
    before = os.sched_getaffinity(0)
    found = [outcome for _, outcome in run([call(os.sched_getaffinity, 0)] * 3, workers=len(before))]
    assert all(len(cores) == 1 and cores <= before for cores in found)
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
def test_fewer_workers_than_cores_leave_the_choice_to_the_system():
    before = os.sched_getaffinity(0)
    found = [outcome for _, outcome in run([call(os.sched_getaffinity, 0)], workers=len(before) - 1)]
    assert found == [before]


def test_no_jobs_start_no_workers():
    assert list(run([], workers=2)) == []


def test_closing_early_ends_the_processes():
    running = run([call(abs, -1), call(time.sleep, 60)])
    assert next(running)[1] == 1
    running.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_start_is_an_error_that_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"could not start .*__main__"):
        outcomes_of_broken_context()


def outcomes_of_broken_context():
    return list(run_jobs(operator.call, Unpicklable(), deque([1]), workers=1))


class Unpicklable:
    def __reduce__(self):
        return os._exit, (1,)
