"""What a run says of itself while it goes: on a terminal, in a pipe, to nobody."""
import io

from vitrail.training.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    report = Reporter(total=4, silent=False, stream=stream)
    report.start(0)
    for step in range(1, 5):
        report.step(step)
        report.line(1, 2, {"loss": 0.5})
    report.score(2, 2, "top1", 0.75, (0.75, 4))
    report.say("a word")
    report.close()
    text = stream.getvalue()
    assert all(part in text for part in ("4/4", "steps/s", "\x1b[", "a word", "epoch 2/2: top1 0.75 (best yet)"))


def test_a_pipe_gets_a_line_now_and_then_and_one_for_each_evaluation() -> None:
    now, stream = 100.0, io.StringIO()
    report = Reporter(total=40, silent=False, stream=stream, clock=lambda: now)
    report.start(0)
    for step in range(1, 31):
        now += 1
        report.step(step)
        report.line(1, 2, {"loss": 0.5, "ce": 0.5, "accuracy": 0.25})
    report.score(1, 2, "top1", 0.75, (0.8, 7))
    assert stream.getvalue().splitlines() == [
        "epoch 1/2, step 1/40: loss 0.5, accuracy 0.25; 1.00 steps/s, 0:39 left",
        "epoch 1/2, step 11/40: loss 0.5, accuracy 0.25; 1.00 steps/s, 0:29 left",
        "epoch 1/2, step 21/40: loss 0.5, accuracy 0.25; 1.00 steps/s, 0:19 left",
        "epoch 1/2, step 30/40: loss 0.5, accuracy 0.25; top1 0.75 (best 0.8 at step 7); 1.00 steps/s, 0:10 left"]


def test_nothing_is_said_of_the_time_left_before_a_step_was_made() -> None:
    stream = io.StringIO()
    report = Reporter(total=40, silent=False, stream=stream)
    report.start(20)
    report.score(1, 2, "top1", 0.75, (0.75, 20))
    assert stream.getvalue() == "epoch 1/2, step 20/40: top1 0.75 (best yet)\n"


def test_all_processes_but_the_first_are_silent() -> None:
    stream = Terminal()
    report = Reporter(total=4, silent=True, stream=stream)
    report.start(0)
    report.step(1)
    report.line(1, 2, {"loss": 0.5})
    report.say("x")
    report.close()
    assert stream.getvalue() == ""


def test_a_reader_that_left_does_not_stop_the_training() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError
    report = Reporter(total=4, silent=False, stream=Gone())
    report.start(0)
    report.line(1, 1, {"loss": 1.0})
