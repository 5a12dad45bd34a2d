"""What is handed out and what a lost worker leaves, without processes or clocks."""

from __future__ import annotations

from cpam_bench.eval.run.schedule import TRIES, Job, Schedule, Work, units


def test_units_follow_the_runs_list_whatever_is_pending() -> None:
    order = ["a", "b", "c", "d", "e"]
    pending = {"a": ["m"], "b": [], "c": [], "d": ["m", "n"], "e": ["n"]}
    found = list(units(order, 2, ["a", "b", "c", "d", "e"], pending))
    assert found == [
        Work(("a", "b"), {"m": ("a",)}),
        Work(("c", "d"), {"m": ("d",), "n": ("d",)}),
        Work(("e",), {"n": ("e",)}),
    ]


def test_methods_go_in_the_order_that_they_are_given() -> None:
    schedule = Schedule([Work(("a",), {"n": ("a",), "m": ("a",), "gone": ("a",)})], ["m", "n"])
    assert list(schedule.take().wanted) == ["m", "n"]
    assert len(schedule) == 0


def test_what_had_not_begun_comes_next_and_what_was_at_work_last() -> None:
    first, second = Work(("a", "b"), {"m": ("a", "b"), "n": ("a", "b")}), Work(("c",), {"m": ("c",)})
    schedule = Schedule([first, second], ["m", "n"])
    job = Job(schedule.take())
    job.made("m", "a")
    assert job.in_flight == [("m", "b")]
    loss = schedule.lose(job)
    assert (loss.again, loss.alone, loss.given_up) == ([("m", "b")], [], [])
    assert schedule.take() == Work(("a", "b"), {"n": ("a", "b")})
    assert schedule.take() == second
    assert schedule.take() == Work(("a", "b"), {"m": ("b",)})


def test_an_edit_that_ends_its_workers_is_put_aside_and_then_given_up() -> None:
    schedule = Schedule([Work(("a", "b"), {"m": ("a", "b")})], ["m"])
    losses = []
    for _ in range(TRIES):
        job = Job(schedule.take())
        if "b" in job.left["m"]:
            job.made("m", "b")
        losses.append(schedule.lose(job))
    assert [loss.again for loss in losses] == [[("m", "a")], [], []]
    assert [loss.alone for loss in losses] == [[], [("m", "a")], []]
    assert [loss.given_up for loss in losses] == [[], [], [("m", "a")]]


def test_methods_lost_in_lockstep_go_together_once_more_and_then_each_alone() -> None:
    schedule = Schedule([Work(("a", "b"), {"m": ("a", "b"), "n": ("a", "b"), "o": ("a",)})], ["m", "n", "o"])
    job = Job(schedule.take())
    job.begin({"m": ("a", "b"), "n": ("a", "b")})
    job.made("m", "a")
    schedule.lose(job)
    assert schedule.take() == Work(("a", "b"), {"o": ("a",)})
    again = schedule.take()
    assert again == Work(("a", "b"), {"m": ("b",), "n": ("a", "b")})
    job = Job(again)
    job.begin(again.wanted)
    schedule.lose(job)
    left = [schedule.take() for _ in range(len(schedule))]
    assert left == [Work((id,), {method: (id,)}, lockstep=False) for method, id in (("m", "b"), ("n", "a"), ("n", "b"))]


def tail(lockstep: tuple[str, ...] = ()) -> Schedule:
    """Two samples by methods of 5, 3, 2 and 2 seconds."""
    methods = ["m", "n", "o", "p"]
    schedule = Schedule([Work((id,), {method: (id,) for method in methods}) for id in "ab"], methods, lockstep)
    for method, seconds in zip(methods, (5.0, 3.0, 2.0, 2.0), strict=True):
        schedule.took(method, seconds)
    return schedule


def test_the_last_units_are_split_the_longest_method_first() -> None:
    schedule = tail()
    taken = [schedule.take(workers=3) for _ in range(len(schedule) + 4)]
    # Half of what is left for each of three workers is 4, 3.2, 2.3, 1.8 ... seconds.
    assert [(work.samples[0], *work.wanted) for work in taken] == [
        ("a", "m"),
        ("b", "m"),
        ("a", "n"),
        ("b", "n"),
        ("a", "o"),
        ("a", "p"),
    ]


def test_methods_in_lockstep_are_not_split() -> None:
    assert list(tail(lockstep=("n", "p")).take(workers=3).wanted) == ["n", "p"]


def test_nothing_is_split_while_there_is_enough_or_a_method_is_unknown() -> None:
    assert list(tail().take(workers=2).wanted) == ["m", "n", "o", "p"]
    unknown = Schedule([Work(("a",), {"m": ("a",), "n": ("a",)})], ["m", "n"])
    unknown.took("m", 1.0)
    assert list(unknown.take(workers=9).wanted) == ["m", "n"]
