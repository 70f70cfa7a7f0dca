"""This process makes the trials, one after the other."""

from __future__ import annotations

from experiments.engines.making import Maker
from experiments.engines.work import Book, Work
from experiments.failures import Failure, fault_of
from experiments.registry import policy_label


def in_process(work: Work, *, retries: int) -> list[Failure]:
    """Makes trials one after the other and returns those that failed; errors are those of `Book.failed`.

    Raises:
        KeyboardInterrupt: somebody asked to stop before all were made.
    """
    book = Book(work, retries=retries)
    maker = Maker(folder=work.folder, tell=work.reporter.at, check=work.interrupts.check)
    if work.trials:
        maker.warm_up()
    for trial in work.trials:
        is_due = True
        while is_due:
            work.interrupts.check()
            work.reporter.start(policy_label(trial.policy))
            try:
                made = maker.make(trial)
            except Exception as error:
                work.reporter.end()
                is_due = book.failed(trial, fault_of(error), error)
            else:
                work.reporter.end()
                book.finished(made)
                is_due = False
    return book.failures
