"""launch: values, prints and failures of every kind reach the caller in time, and nothing stays behind."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil
import pytest
import torch
import torch.distributed as dist
from left_behind import gone, running
from nbclient import NotebookClient

from course_utils.launch import RankFailed, RankTimeout, launch

launcher = importlib.import_module("course_utils.launch.launch")  # the name itself is the function
NOTICE = 10.0  # seconds from an event until the caller must know
MARK = "COURSE_TEST_MARK"


class Pair(NamedTuple):
    rank: int
    total: float


def total(x: float) -> Pair:
    t = torch.tensor([x * (dist.get_rank() + 1)])
    dist.all_reduce(t)
    return Pair(dist.get_rank(), t.item())


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first launch starts the server that imports torch; what the tests time and compare comes after it."""
    assert launch(total, 2, 1.0) == [Pair(0, 3.0), Pair(1, 3.0)]


def marked(mark: str) -> list[psutil.Process]:
    """All living processes whose environment carries the mark, or that a marked one started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_values_come_in_rank_order_with_arguments_of_any_kind() -> None:
    def work(shift: int, *, scale: torch.Tensor) -> dict[str, Any]:
        time.sleep(0.1 * (3 - dist.get_rank()))  # the last rank is the first to return
        return {"rank": dist.get_rank() + shift, "scaled": scale * dist.get_rank(), "world": dist.get_world_size()}

    results = launch(work, 4, 10, scale=torch.tensor([2.0]))
    assert [(r["rank"], r["scaled"].item(), r["world"]) for r in results] == [(10 + r, 2.0 * r, 4) for r in range(4)]


def test_four_ranks_start_in_much_less_than_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        launch(total, 4, 1.0)
        times.append(time.monotonic() - start)
    with capsys.disabled():
        print(f" [4 ranks: {min(times):.2f} s]", end="")
    assert min(times) < 2


def test_prints_are_labelled_and_in_the_same_order_every_time(capfd: pytest.CaptureFixture[str]) -> None:
    def talk() -> None:
        for line in range(2):
            time.sleep(0.05 * (3 - dist.get_rank()))
            print(f"line {line}")
        os.write(2, "from below Python: 十\n".encode())
        print("no end of line", end="")

    for _ in range(2):
        launch(talk, 3)
        shown = capfd.readouterr()
        lines = ["line 0", "line 1", "from below Python: 十", "no end of line"]
        assert shown.out.splitlines() == [f"[rank {rank}] {line}" for rank in range(3) for line in lines]
        assert shown.err == ""
    launch(talk, 3, show=False)
    assert capfd.readouterr() == ("", "")


def test_rank_zero_is_heard_live_and_progress_bars_show_their_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[float, str]] = []

    class Ear:
        def write(self, text: str) -> None:
            heard.append((time.monotonic(), text))

        def flush(self) -> None: ...

    def talk() -> None:
        print(f"early {dist.get_rank()}")
        time.sleep(1)
        sys.stderr.write("\r10 %\r50 %\r100 %\nlate\n")

    monkeypatch.setattr(sys, "stdout", Ear())
    launch(talk, 2)
    end = time.monotonic()
    early = next(at for at, text in heard if text == "[rank 0] early 0")
    assert end - early > 0.9
    lines = "".join(text for _, text in heard).splitlines()
    assert lines == [f"[rank {r}] {line}" for r in range(2) for line in (f"early {r}", "100 %", "late")]


def test_much_output_and_large_values_do_not_block() -> None:
    def pour() -> torch.Tensor:
        for _ in range(20_000):
            print("x" * 50)
        return torch.zeros(3_000_000)

    assert [value.shape for value in launch(pour, 2, show=False, timeout=60)] == [(3_000_000,)] * 2


def fail(kind: str) -> None:
    t = torch.ones(1)
    dist.all_reduce(t)
    if dist.get_rank() == 1:
        match kind:
            case "raise":
                raise ValueError("boom")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit("enough")
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "late":  # the others notice a second before this rank says why
                dist.destroy_process_group()
                time.sleep(1)
                raise ValueError("boom, late")
            case "value":
                return threading.Lock()  # type: ignore[return-value]
    dist.all_reduce(t)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raise", 'rank 1 of 4 failed:\nTraceback.*line \\d+, in fail\n +raise ValueError."boom".\nValueError: boom$'),
        ("kill", "^rank 1 of 4 was killed by SIGKILL, as the system does when memory runs out$"),
        ("exit", "^rank 1 of 4 ended with exit code 3 before it returned$"),
        ("sys.exit", "rank 1 of 4 failed:.*SystemExit: enough$"),
        ("crash", "rank 1 of 4 was killed by SIGSEGV:.*in fail\n +os.kill.os.getpid.., signal.SIGSEGV.$"),
        ("late", "rank 1 of 4 failed:.*ValueError: boom, late$"),
        ("value", "rank 1 of 4 failed:.*the returned lock cannot be sent to the caller.*return tensors, numbers"),
    ],
)
def test_the_rank_that_fails_is_named(kind: str, message: str, nothing_left: None) -> None:
    start = time.monotonic()
    with pytest.raises(RankFailed, match=f"(?s){message}") as caught:
        launch(fail, 4, kind)
    assert time.monotonic() - start < NOTICE
    assert caught.value.rank == 1
    assert not isinstance(caught.value, RankTimeout)
    assert "/" not in str(caught.value).replace("torch/", "").replace("course_utils/", ""), "an absolute path is shown"
    assert "worker.py" not in str(caught.value)


def hang(kind: str) -> None:
    dist.all_reduce(torch.ones(1))
    if dist.get_rank() == 2:
        if kind == "sleep":
            time.sleep(1000)
        while kind == "spin":
            pass
        return
    dist.all_reduce(torch.ones(1))


@pytest.mark.parametrize(
    ("kind", "rank", "message"),
    [
        (
            "sleep",
            2,
            "rank 2 of 4 has not returned after 1 s\nrank 2 stood here:.*in hang\n +time.sleep.1000.\nrank 0 waited",
        ),
        ("spin", 2, "rank 2 stood here:.*in hang\n +(while|pass).*\nrank 0 waited in a collective: .*all_reduce"),
        (
            "return",
            0,
            "ranks 0, 1 and 3 of 4 have not.*rank 3 waited in a collective.*\nrank 2 had returned\nevery rank must",
        ),
    ],
)
def test_the_rank_that_hangs_is_named_with_its_stack(kind: str, rank: int, message: str, nothing_left: None) -> None:
    start = time.monotonic()
    with pytest.raises(RankTimeout, match=f"(?s){message}") as caught:
        launch(hang, 4, kind, timeout=1)
    assert time.monotonic() - start < 1 + NOTICE
    assert caught.value.rank == rank
    assert isinstance(caught.value, TimeoutError)


def test_a_rank_that_returns_just_too_late_is_late(nothing_left: None) -> None:
    """While the caller asks where the ranks stand, they return."""

    def work(seconds: float) -> str:
        if dist.get_rank() == 1:
            time.sleep(seconds)
        return "in time"

    said = []
    for seconds in (0.52, 0.6, 0.8, 1.2):
        try:
            said += launch(work, 2, seconds, timeout=0.5)
        except RankTimeout as error:
            said.append(str(error).replace("stood here:", "returned").splitlines()[1])
    assert any(text.startswith("rank 1 returned") for text in said)
    assert all(text.startswith(("rank 1 returned", "in time")) for text in said), said


def test_ranks_that_returned_are_not_late_because_their_caller_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is busy printing while the time passes; the value has come with what it prints."""

    class Slow:
        def write(self, text: str) -> None:
            time.sleep(0.8 * ("line" in text))

        def flush(self) -> None: ...

    def talk() -> str:
        print("line 1")
        time.sleep(0.1)  # the caller has begun to print it
        print("line 2")
        return "done"

    monkeypatch.setattr(sys, "stdout", Slow())
    assert launch(talk, 1, timeout=1.2) == ["done"]


def test_a_rank_that_raises_when_the_time_is_over_is_heard(nothing_left: None) -> None:
    def work() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it does not say where it stands, so the caller waits
        time.sleep(1)
        raise ValueError("too many cooks")

    with pytest.raises(RankFailed, match="ValueError: too many cooks"):
        launch(work, 1, timeout=0.5)


def test_a_rank_that_does_not_answer_is_named(nothing_left: None) -> None:
    def work() -> None:
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.barrier()

    with pytest.raises(RankTimeout, match="rank 1 does not answer: it was stopped, or") as caught:
        launch(work, 2, timeout=0.5)
    assert caught.value.rank == 1


def test_all_that_fail_are_counted_and_the_lowest_is_shown() -> None:
    def all_wrong() -> None:
        raise KeyError(f"rank {dist.get_rank()}")

    for _ in range(2):
        with pytest.raises(
            RankFailed, match=r"(?s)^rank 0 of 3 failed:.*\nrank 1 failed too: KeyError.*\nrank 2 failed too"
        ):
            launch(all_wrong, 3)


def test_success_leaves_nothing(nothing_left: None) -> None:
    def work() -> int:
        child = subprocess.Popen(["sleep", "1000"])  # forgotten
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8)), batch_size=2, num_workers=1)
        assert sum(batch.sum().item() for (batch,) in data) == 8
        return child.pid

    assert gone(launch(work, 2))


def test_the_caller_holds_the_port_so_that_no_one_can_take_it(nothing_left: None) -> None:
    def port() -> int:
        dist.barrier()
        return int(os.environ["MASTER_PORT"])

    seen: list[set[int]] = []

    def watch(stop: threading.Event) -> None:
        while not stop.is_set():
            connections = psutil.Process().net_connections()
            seen.append({c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN})
            time.sleep(0.005)

    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(stop,))
    watcher.start()
    try:
        ports = launch(port, 2)
    finally:
        stop.set()
        watcher.join()
    assert len(set(ports)) == 1
    assert any(ports[0] in listening for listening in seen)


def test_many_launches_at_once_do_not_meet() -> None:
    results: dict[int, list[Pair]] = {}

    def one(number: int) -> None:
        results[number] = launch(total, 2, float(number), show=False)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [Pair(0, 3.0 * number), Pair(1, 3.0 * number)] for number in range(6)}


# Preload less: it saves seconds where only the start and the end are looked at.
LIGHT = 'importlib.import_module("course_utils.launch.launch").PRELOAD = ("course_utils.launch.worker",)'
SCRIPT = """
import importlib, os, sys, time, torch, torch.distributed as dist
from course_utils.launch import launch
LIGHT
def work(seconds):
    print(os.getpid())
    time.sleep(seconds)
    x = torch.ones(3)
    dist.all_reduce(x)
    return x
print("script")
print("sum", launch(work, 2, 0)[1].tolist(), flush=True)
launch(work, 2, 1000)
"""


def test_a_script_needs_no_guard_and_no_rank_survives_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("LIGHT", LIGHT))
    mark = f"{tmp_path.name}-{time.time_ns()}"
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().rstrip() for _ in range(5)]
    assert lines[0] == "script"
    assert lines[3] == "sum [2.0, 2.0, 2.0]", "the ranks ran the script again, or something else was said"
    assert lines[4].startswith("[rank 0]")
    pids = [p.pid for p in marked(mark)]
    assert len(pids) >= 4, "the script, the server and two ranks"
    process.kill()
    process.wait(10)
    assert gone(pids, NOTICE), [psutil.Process(pid).cmdline() for pid in pids if running(pid)]


def test_too_few_descriptors_are_told_and_the_next_launch_works(nothing_left: None) -> None:
    """Whichever pipe or process it is that cannot be made. (By spawn: the server would have to start again.)"""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(16, 22):
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + spare, before[1]))
        try:
            with pytest.raises(OSError, match=r"of 64 could not be started .*Too many open files.*ulimit -n"):
                launch(total, 64, 1.0, start_method="spawn")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert launch(total, 1, 1.0) == [Pair(0, 1.0)]


def signal_the_caller(caller: int, numbers: list[signal.Signals], heed: bool) -> str:
    """What a long run does: it takes a note of a signal and ends in order. Rank 0 sends the signals, too."""
    noted: list[int] = []
    if heed:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: noted.append(number))
    dist.barrier()
    if dist.get_rank() == 0:
        for number in numbers:
            os.kill(caller, number)
            time.sleep(0.3)
    end = time.monotonic() + 100
    while time.monotonic() < end:
        asked = torch.tensor(float(bool(noted)))
        dist.all_reduce(asked)  # all end at the same step
        if asked > 0 and heed:
            return f"stopped by {noted}"
    return "not stopped"


def test_an_interrupted_launch_ends_its_ranks(nothing_left: None) -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch(signal_the_caller, 2, os.getpid(), [signal.SIGINT], False)
    assert time.monotonic() - begin < NOTICE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_to_ranks_that_can_stop_by_themselves(number: signal.Signals, nothing_left: None) -> None:
    before = signal.getsignal(number)
    stopped = launch(signal_the_caller, 2, os.getpid(), [number], True, stop_within=NOTICE)
    assert stopped == [f"stopped by [{number.value}]"] * 2
    assert signal.getsignal(number) is before


def test_who_does_not_stop_in_time_is_named_and_a_second_signal_ends_all(nothing_left: None) -> None:
    def deaf(caller: int, signals: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal_the_caller(caller, [signal.SIGINT] * signals, heed=False)

    with pytest.raises(RankTimeout, match=r"not returned after 0\.5 s from the signal on"):
        launch(deaf, 2, os.getpid(), 1, stop_within=0.5)
    with pytest.raises(KeyboardInterrupt):
        launch(deaf, 2, os.getpid(), 2, stop_within=60)


def test_in_a_notebook_cell() -> None:
    cells = [
        "import importlib, torch, torch.distributed as dist\nfrom course_utils.launch import RankFailed, launch\n"
        f"scale = 3\n{LIGHT}",
        "class Box:\n    def __init__(self, x): self.x = x\n"
        "def helper(x):\n    assert dist.get_rank() < 1, 'too many'\n"
        "def work(n):\n    x = torch.full((n,), 1.0 * scale)\n"
        "    dist.all_reduce(x)\n    print('hi')\n    return Box(x)",
        "boxes = launch(work, 2, 2)\nprint(isinstance(boxes[0], Box), boxes[1].x)",
        "def bad():\n    helper(1)\ntry:\n    launch(bad, 2)\nexcept RankFailed as error:\n    print(error)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert texts[2].splitlines() == ["[rank 0] hi", "[rank 1] hi", "True tensor([6., 6.])"]
    assert texts[3].splitlines() == [
        "rank 1 of 2 failed:",
        "Traceback (most recent call last):",
        '  File "Cell In[4]", line 2, in bad',
        "    helper(1)",
        '  File "Cell In[2]", line 4, in helper',
        "    assert dist.get_rank() < 1, 'too many'",
        "AssertionError: too many",
    ]


def test_spawn_gives_the_same() -> None:
    assert launch(total, 1, 2.0, start_method="spawn") == [Pair(0, 2.0)]  # one rank: each imports torch anew


def test_ranks_know_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_TEST_LATER", "set after the server started")

    def look() -> tuple[Any, ...]:
        names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "COURSE_TEST_LATER"]
        same = torch.rand(3)
        dist.broadcast(same, 0)
        torch.manual_seed(7)
        return (*map(os.environ.get, names), torch.get_num_threads(), dist.get_backend(), Path.cwd())

    results = launch(look, 2, backend="gloo")
    assert results == [(str(r), str(r), "2", "set after the server started", 1, "gloo", Path.cwd()) for r in range(2)]
    assert "RANK" not in os.environ


def test_all_ranks_begin_with_the_same_seed() -> None:
    first, second = launch(lambda: torch.rand(3), 2, seed=5)
    assert torch.equal(first, second)
    assert not torch.equal(first, launch(lambda: torch.rand(3), 1, seed=6)[0])


def test_threads_survive_a_caller_that_used_them() -> None:
    """A plain fork after a parallel backward leaves the child waiting for threads that it does not have."""

    def work() -> bool:
        x = torch.randn(600, 600, requires_grad=True)
        (x @ x).relu().sum().backward()
        return torch.get_num_threads() == 2

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        work()
        assert launch(work, 2, threads=2, timeout=30) == [True, True]
    finally:
        torch.set_num_threads(before)


def test_a_function_that_says_ops_and_config_can_be_sent() -> None:
    """cloudpickle takes the names for torch.ops and torch.distributed.config, which cannot be copied."""

    class Thing:
        ops = config = 3

    thing = Thing()
    assert launch(lambda: thing.ops * torch.ones(1).item() + thing.config * dist.get_world_size(), 1) == [6.0]


@pytest.mark.parametrize(
    ("world_size", "error", "message"),
    [
        (0, ValueError, "world_size is 0.* 64 "),
        (-2, ValueError, "world_size is -2"),
        (384, ValueError, "world_size is 384.*torchrun"),
        ("4", TypeError, "world_size is '4' .str."),
        (True, TypeError, "world_size is True"),
        (2.0, TypeError, "world_size is 2.0 .float."),
    ],
)
def test_wrong_world_sizes(world_size: Any, error: type[Exception], message: str, nothing_left: None) -> None:
    with pytest.raises(error, match=message):
        launch(total, world_size, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"timeout": t}, f"timeout is {t!r}") for t in (0, -1, "a", float("inf"), None, True)],
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"stop_within": 0}, "stop_within is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"backend": "mpi"}, "backend is 'mpi'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, nothing_left: None) -> None:
    with pytest.raises(ValueError, match=message):
        launch(total, 2, 1.0, **options)


def test_what_cannot_be_sent_is_named(nothing_left: None) -> None:
    lock = threading.Lock()

    def uses_a_lock() -> None:
        with lock:
            pass

    with pytest.raises(TypeError, match=r"uses_a_lock .* its variable lock \(_thread.lock\)"):
        launch(uses_a_lock, 2)
    with pytest.raises(TypeError, match=r"its argument 1 \(_thread.lock\) .* inside total"):
        launch(total, 2, lock)
    with pytest.raises(TypeError, match=r"launch got Pair.* where a function belongs: write launch.f, 4, x."):
        launch(Pair(0, 1.0), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'fork' .*'forkserver'"):
        launch(total, 2, 1.0, start_method="fork")  # type: ignore[arg-type]


def test_a_launch_inside_a_launch_is_refused() -> None:
    with pytest.raises(RankFailed, match="inside rank 0 of another launch"):
        launch(lambda: launch(total, 2, 1.0), 1)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("ValueError: batch_size 3 is odd", "batch_size 3 is odd"),
        ("FileNotFoundError: no such file: 'a: b'", "no such file: 'a: b'"),
        ("FloatingPointError: the loss is nan", "the loss is nan"),
        ("RuntimeError: shapes differ", "rank 1 of 2 failed"),
        ("torch.OutOfMemoryError: too much", "rank 1 of 2 failed"),
        ("", "rank 1 of 2 failed"),
    ],
)
def test_a_command_says_the_sentence_alone_where_the_error_speaks_to_people(last: str, said: str) -> None:
    assert RankFailed("rank 1 of 2 failed", 1, f"Traceback:\n  line\n{last}").sentence == said
