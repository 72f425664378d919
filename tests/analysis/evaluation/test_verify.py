"""The verifier: what it calls right, what an answer can cost at most, and the process behind it.

Every test that can hang asserts the kind of failure, and a ceiling of its CPU time or of wall clock
that only a hang exceeds, on however busy a machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from analysis.evaluation import verify, verify_worker
from analysis.evaluation.verify import judge, verify_answer
from analysis.prompts.answers import extract_answer
from analysis.prompts.gold import Gold
from analysis.prompts.problems import generate
from tests.support import answers

HANG = 60  # seconds of wall clock: two answers that take all of their patience, and starts
DEAR = 8  # seconds of CPU time: two answers that are ended, and the starts of two processes
SHORT = 0.5  # TIME_LIMIT where only that there is one matters, not how long it is
TOWER = "9^{9^{9^9}}"


def process() -> psutil.Process:
    """The process that runs math-verify, which is running after this."""
    assert verify_answer("a+b", "b+a").correct
    (worker,) = (p for p in psutil.Process().children() if str(verify.WORKER) in p.cmdline())
    return worker


def spent() -> float:
    """Seconds of CPU time that this process and its children have taken, dead or alive."""
    alive = [child.cpu_times() for child in psutil.Process().children()]
    return sum(os.times()[:4]) + sum(times.user + times.system for times in alive)


def python(program: str) -> subprocess.CompletedProcess[str]:
    """A program that must end by itself, with warnings of unclosed files and processes."""
    command = [sys.executable, "-X", "dev", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("completion", "gold", "right"),
    [
        ("<think>1</think><answer>23</answer>", "23", True),
        ("<answer>22</answer> no, <answer> 23.0 </answer>", "23", True),
        ("<answer>22<answer>23</answer></answer>", "23", True),
        ("<answer>23</answer> or <answer>22", "23", True),
        ("so \\boxed{\\frac{46}{2}}", "23", True),
        ("\\boxed{\\text{a}{b}} 5", "5", False),
        ("it is 1,024.", "1024", True),
        ("<answer>1,2</answer>", "12", False),
        ("<answer>-21</answer>", "-2,1", False),
        ("-7", "7", False),
        ("<think>the answer is 23", "23", False),
        ("", "23", False),
        ("<answer></answer>", "23", False),
        ("<answer>{{{</answer>", "23", False),
        ("<answer>\\frac{1}{2}</answer>", "0.5", True),
        ("<answer>1.5e3</answer>", "1500", True),
        ("<answer>1/0</answer>", "5", False),
        ("23 or 24", "23", False),
    ],
)
def test_judging(completion, gold, right):
    assert judge(completion, gold).correct is right


@pytest.mark.parametrize(
    ("table", "right"), [(answers.ANSWERS_RIGHT, True), (answers.ANSWERS_WRONG, False)]
)
def test_answers_as_people_and_models_write_them(table, right):
    """In the tag and in a box; all disagreements are shown at once."""
    found = [
        (judge(completion, gold).correct, completion, gold)
        for text, gold in answers.pairs(table)
        for completion in (f"<think>t</think><answer>{text}</answer>", f"so \\boxed{{{text}}}.")
    ]
    assert [row for row in found if row[0] is not right] == []
    assert len(found) > 200


@pytest.mark.parametrize(
    ("table", "right"), [(answers.COMPLETIONS_RIGHT, True), (answers.COMPLETIONS_WRONG, False)]
)
def test_where_a_completion_has_its_answer(table, right):
    found = [(judge(text, gold).correct, text, gold) for text, gold in answers.pairs(table)]
    assert [row for row in found if row[0] is not right] == []


def test_an_unclosed_box_holds_no_answer():
    assert extract_answer("\\boxed{5") == "5"  # the last number of the text, not the box
    assert extract_answer("\\boxed{x") is None


@pytest.mark.parametrize("gold", ["B", "\\text{(B)}"])
def test_choices(gold):
    for answer in ("B", "(B)", "\\text{B}", "\\text{(B) }", "**B**", "B.", "$B$", "\\mathbf{B}"):
        assert verify_answer(answer, gold).correct, answer
    for answer in ("A", "(C)", "A or B", "(A)(B)", "AB", "BB", "5"):
        assert not verify_answer(answer, gold).correct, answer


def test_the_process_agrees_with_math_verify_called_here():
    from math_verify import parse
    from math_verify import verify as equal

    pairs = {
        ("\\frac{3}{4}", "\\frac{6}{8}"): True,
        ("\\{1,2\\}", "\\{2,1\\}"): True,
        ("(1,2)", "(2,1)"): False,
        ("x^2-1", "(x-1)(x+1)"): True,
        ("\\sqrt{8}", "2\\sqrt{2}"): True,
        ("\\pi", "3"): False,
        ("[0,1)", "(0,1]"): False,
        ("y=2x", "2x"): True,
    }
    for (answer, gold), right in pairs.items():
        oracle = equal(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}"))
        assert verify_answer(answer, gold) == verify.Verdict(right)
        assert oracle is right


def test_a_gold_answer_that_nobody_can_parse(monkeypatch):
    assert verify_answer("5", "\\frac{1").correct is False
    assert verify_answer("5", "}").failure == "unparseable"
    assert verify_answer("5", "").failure == "unparseable"
    assert verify_answer("}{" * 300, "}{" * 300).correct
    monkeypatch.setattr(verify, "TIME_LIMIT", SHORT)
    before = spent()
    assert verify_answer("x+1", TOWER).failure == "timeout"
    verify_answer("x+1", "(" * 10**5)
    verify_answer("5", "9" * 10**7)
    assert spent() - before < DEAR


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (TOWER, "timeout"),
        ("2^" * 100 + "2", "timeout"),
        ("10^{10^{10}}", "timeout"),
        ("100000000!", "timeout"),
        ("9" * 200 + "!", "timeout"),
        ("\\binom{10^9}{10^8}", "timeout"),
        ("1e999999999", None),  # 400 MB if anybody writes it out
        ("1e9_9_9_9_9_9_9_9_9", None),
        ("+" * 255, "unparseable"),
        ("\\frac" * 50, "unparseable"),
        ("|" * 200, "unparseable"),
        ("\ud800", "unparseable"),
        ("\x00", "unparseable"),
        ("9" * 10**6, "too_long"),
        ("(" * 400 + "1" + ")" * 400, "too_long"),
        ("\\sqrt{" * 400 + "1" + "}" * 400, "too_long"),
    ],
)
def test_adversarial_answers_cost_a_bounded_time(answer, failure, monkeypatch):
    """The first that never ends has the time that a user's answer has."""
    if failure == "timeout" and answer != TOWER:
        monkeypatch.setattr(verify, "TIME_LIMIT", SHORT)
    before = spent()
    verdict = judge(f"<answer>{answer}</answer>", "1")
    assert verdict == verify.Verdict(False, failure)
    assert spent() - before < DEAR
    assert verify_answer("\\frac{2}{4}", "\\frac{1}{2}").correct  # the next one is judged


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 10**6,
        "</answer>" * 10**6,
        "<answer>" * 10**6 + "</answer>",
        "\\boxed{" * 10**6,
        "\\boxed{" * 10**6 + "}" * 10**6,
        "\\boxed{" + "{" * 10**6,
        "<think>" * 10**6,
        "</think>" * 10**6,
        "1," * 10**6,
        "9" * 10**7,
        "-" * 10**7,
    ],
)
def test_megabytes_cost_a_time_linear_in_them(text):
    before = spent()
    assert judge(text, "1").failure in ("no_answer", "too_long")
    assert spent() - before < DEAR  # quadratic, each would take hours


def test_a_generators_own_scorer_decides():
    """One worker for all; its first entry imports reasoning-gym there."""
    (problem,) = generate("reasoning_gym:countdown", 1)
    gold = Gold.from_json(problem.gold.to_json())
    assert gold == problem.gold
    other = problem.answer.replace(" ", "") + " + 0"
    target = problem.question.split()[1]
    for answer, verdict in (
        (problem.answer, verify.Verdict(True)),
        (target, verify.Verdict(False)),
        ("None", verify.Verdict(False)),
        (other, verify.Verdict(False)),  # 0 is no number of the problem
        ("open('written', 'w')", verify.Verdict(False)),
        ("__import__('os').system('touch written')", verify.Verdict(False)),
        ("1+" * 10**5, verify.Verdict(False, "too_long")),
    ):
        assert judge(f"<answer>{answer}</answer>", gold) == verdict, answer
    assert judge("", gold).failure == "no_answer"
    assert not Path("written").exists()
    (problem,) = generate("reasoning_gym:graph_color", 1)
    assert problem.answer == ""
    assert judge("<answer>None</answer>", problem.gold).failure in (None, "unparseable")
    assert not judge("<answer>{}</answer>", problem.gold).correct


def test_any_of_several_gold_texts_is_right():
    gold = Gold(("5", "five"))
    assert judge("<answer>five</answer>", gold).correct
    assert judge("<answer>5.0</answer>", gold).correct
    assert not judge("<answer>6</answer>", gold).correct


@pytest.mark.distributed
def test_threads_get_the_same_verdicts():
    answers = ["1+x", TOWER, "x+2", "}", "\\frac{2x+2}{2}", "x" * 300] * 2
    here = [verify_answer(answer, "x+1") for answer in answers]
    there: dict[int, verify.Verdict] = {}

    def work(index: int) -> None:
        there[index] = verify_answer(answers[index], "x+1")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG * len(answers))
    assert [there[i] for i in range(len(answers))] == here
    assert [(v.correct, v.failure) for v in here[:6]] == [
        (True, None),
        (False, "timeout"),
        (False, None),
        (False, "unparseable"),
        (True, None),
        (False, "too_long"),
    ]


@pytest.mark.distributed
def test_a_process_that_was_killed_is_replaced(monkeypatch):
    process().kill()
    assert verify_answer("1+x", "x+1").correct  # between two answers
    monkeypatch.setattr(verify, "TIME_LIMIT", 4.0)
    before = process()
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(verify_answer(TOWER, "1")))
    thread.start()
    time.sleep(0.5)
    before.kill()  # within one
    assert verify_answer("1+x", "x+1").correct
    thread.join(HANG)
    assert verdicts == [verify.Verdict(False, "timeout")]
    assert process().pid != before.pid


def test_a_busy_machine_changes_no_verdict(monkeypatch, tmp_path):
    """An answer may wait, as for a core, longer than it may compute."""
    waiting = tmp_path / "worker.py"
    waiting.write_text(
        f"import sys, time; sys.path.insert(0, {str(verify.WORKER.parents[2])!r})\n"
        "from analysis.evaluation import verify_worker\n"
        "def compare(answer, gold):\n"
        "    time.sleep(0.4 if answer == 'w' else 0)\n"
        "    while answer == 'c':\n"
        "        pass\n"
        "    return True, None\n"
        "verify_worker.compare = compare\n"
        "verify_worker.main()\n"
    )
    verify._worker.stop()
    monkeypatch.setattr(verify, "WORKER", waiting)
    monkeypatch.setattr(verify, "TIME_LIMIT", 0.2)
    assert verify_answer("w", "x").correct
    before = spent()
    assert verify_answer("c", "x") == verify.Verdict(False, "timeout")
    assert spent() - before < 1  # it was not tried again
    verify._worker.stop()


def test_an_interrupted_question_leaves_no_reply_to_the_next(monkeypatch):
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    process()
    previous = signal.signal(signal.SIGALRM, interrupt)
    monkeypatch.setattr(verify, "TIME_LIMIT", 20.0)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            verify_answer("100000000!", "1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert verify_answer("x", "x+1") == verify.Verdict(False)
    assert verify_answer("1+x", "x+1").correct


def test_memory_of_the_process_is_bounded_and_it_loads_no_torch():
    worker = process()
    limits = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max address space"))
    assert line.split()[3:5] == [str(verify_worker.MEMORY)] * 2
    maps = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "python" in maps
    assert "torch" not in maps
    assert "cuda" not in maps
    assert worker.memory_info().rss < 200 * 2**20
    done = python(
        "import sys, analysis.evaluation.verify; print({'torch', 'math_verify'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n"


def test_memory_that_runs_out_costs_one_answer(monkeypatch, tmp_path):
    """A stand-in whose every answer `b` takes more than is allowed, as MemoryError tells it."""
    greedy = tmp_path / "worker.py"
    greedy.write_text(
        f"import sys; sys.path.insert(0, {str(verify.WORKER.parents[2])!r})\n"
        "from analysis.evaluation import verify_worker\n"
        "def compare(answer, gold):\n"
        "    return len(bytearray(2**31 if answer == 'b' else 1)) == 1, None\n"
        "verify_worker.compare = compare\n"
        "verify_worker.main()\n"
    )
    verify._worker.stop()
    monkeypatch.setattr(verify, "WORKER", greedy)
    assert verify_answer("s", "x").correct
    assert verify_answer("b", "x") == verify.Verdict(False, "timeout")
    assert verify_answer("s", "x").correct
    verify._worker.stop()


def test_memory_that_an_answer_leaves_in_use_is_not_the_next_ones(monkeypatch, tmp_path):
    hoarder = tmp_path / "worker.py"
    hoarder.write_text(
        f"import sys; sys.path.insert(0, {str(verify.WORKER.parents[2])!r})\n"
        "from analysis.evaluation import verify_worker\n"
        "kept = []\n"
        "def compare(answer, gold):\n"
        "    kept.append(bytearray(600 * 2**20 if answer == 'b' else 1))\n"
        "    return True, None\n"
        "verify_worker.compare = compare\n"
        "verify_worker.main()\n"
    )
    verify._worker.stop()
    monkeypatch.setattr(verify, "WORKER", hoarder)
    monkeypatch.setattr(verify, "TIME_LIMIT", 20.0)  # 600 MiB are to be written, however busy it is
    assert all(verify_answer(answer, "x").correct for answer in "bbsb")
    verify._worker.stop()


def test_a_process_that_can_not_start_says_how_to_see_why(monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(3)\n")
    verify._worker.stop()
    monkeypatch.setattr(verify, "WORKER", broken)
    with pytest.raises(RuntimeError, match=r"(?s)status 3 .* run: echo \| .*worker\.py"):
        verify_answer("x", "y")


def test_a_forked_process_has_its_own():
    program = """
import os, threading, time
from analysis.evaluation import verify
assert verify.verify_answer("1+x", "x+1").correct
mine = verify._worker._running[0].pid
verify.TIME_LIMIT = 1.0  # of a core: the answer is still computed when the process forks
thread = threading.Thread(target=verify.verify_answer, args=("9^{9^{9^9}}", "1"))
thread.start()
time.sleep(0.3)  # the lock is held while this process forks
child = os.fork()
if child == 0:
    assert verify._worker._running is None
    assert verify.verify_answer("2+x", "x+2").correct
    assert verify._worker._running[0].pid != mine
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert verify.verify_answer("1+x", "x+1").correct
print("both")
"""
    done = python(program)
    assert (done.stdout, done.returncode) == ("both\n", 0), done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("thread", [False, True])
def test_the_interpreter_ends_cleanly(thread):
    """Idle, and while a daemon thread waits for an answer."""
    program = f"""
import threading, time
from analysis.evaluation import verify
assert verify.verify_answer("1+x", "x+1").correct
if {thread}:
    verify.TIME_LIMIT = 60.0
    question = ("9^{{9^{{9^9}}}}", "1")
    threading.Thread(target=verify.verify_answer, args=question, daemon=True).start()
    time.sleep(0.3)
print(verify._worker._running[0].pid)
"""
    started = time.monotonic()
    done = python(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < HANG
    assert not psutil.pid_exists(int(done.stdout))


@pytest.mark.distributed
def test_the_process_does_not_outlive_a_killed_parent():
    program = f"""
import os, signal, threading, time
from analysis.evaluation import verify
assert verify.verify_answer("1+x", "x+1").correct
print(verify._worker._running[0].pid, flush=True)
threading.Thread(target=verify.verify_answer, args=("{TOWER}", "1")).start()
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = python(program)
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    deadline = time.monotonic() + HANG
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(worker)


def test_signals_to_the_parents_group_do_not_end_it():
    worker = process()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert process().pid == worker.pid


def test_the_process_by_hand():
    module = [sys.executable, "-m", "analysis.evaluation.verify_worker"]
    requests = b'["\\\\frac{1}{2}", "0.5", 2]\n["x", "y", 2]\n["}", "y", 2]\n'
    out = subprocess.run(module, input=requests, capture_output=True, timeout=120).stdout
    replies = [json.loads(line) for line in out.splitlines()]
    assert replies == [[], [True, None], [False, None], [False, "unparseable"]]


def test_a_parser_that_breaks_is_a_wrong_answer(monkeypatch):
    import math_verify

    def broken(*args, **kwargs):
        raise RecursionError("deep")

    monkeypatch.setattr(math_verify, "parse", broken)
    assert verify_worker.compare("x", "y") == (False, "unparseable")
