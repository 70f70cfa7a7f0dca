"""How one trial is made, in whatever process: searched, measured, stored, and told of on the way."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.config import Trial
from experiments.failures import is_ours, name_of
from experiments.progress import Place
from experiments.results import Finished, Folder
from experiments.trials import run_trial, warm_up
from experiments.worlds import world_of

if TYPE_CHECKING:  # nor torch
    from searchkit.rewards import Scorer
    from searchkit.stream import Stream

log = logging.getLogger(__name__)

TELLING_SECONDS = 0.2  # between two words of how far a trial is, so that telling takes no time


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes trials of an experiment with the models of this process.

    Attributes:
        tell: hears now and then how far a trial is.
        check: raises where no further chunk is to be made.
        scorer: what scores candidates; None for the world's own in this process.
    """

    folder: Folder
    tell: Callable[[Place], None]
    check: Callable[[], None]
    scorer: Scorer | None = None

    def warm_up(self) -> None:
        """Loads the models, and makes a chunk."""
        began = time.monotonic()
        with contextlib.suppress(ValueError):  # the first trial will say so, by its name
            warm_up(self._stream(self.folder.experiment.prompts[0]))
        log.info("models are loaded, and a chunk is made with them, after %.1f s", time.monotonic() - began)

    def make(self, trial: Trial) -> Finished:
        """Returns a trial that is made, measured and stored.

        Raises:
            ValueError: the policy or a score is at fault; the trial is not named.
        """
        log.info("making %s", name_of(trial))
        folder, experiment, known = self.folder, self.folder.experiment, self.folder.known_scores
        teller = _Teller(tell=self.tell, check=self.check, num_chunks=experiment.num_chunks)
        try:
            known.refresh()
            stream = replace(self._stream(trial.prompt), told=teller.candidates, known=known)
            outcome = run_trial(
                experiment,
                trial,
                stream=stream,
                on_chunk=teller.chunk,
                journal=folder.journal(trial),
                has_clips=folder.has_clips,
            )
            return folder.store(trial, outcome, fps=stream.model.fps)
        except Exception as error:
            if not (isinstance(error, ValueError) and is_ours(error)):
                error.add_note(f"while making {name_of(trial)}")
            raise
        finally:
            known.save()

    def _stream(self, prompt: str) -> Stream:
        return world_of(self.folder.experiment).make_stream(self.folder.experiment, prompt, scorer=self.scorer)


@dataclass(kw_only=True)
class _Teller:
    """Tells how far a trial is, and stops it between two chunks; after its last one it is finished instead."""

    tell: Callable[[Place], None]
    check: Callable[[], None]
    num_chunks: int | None
    place: Place = field(default_factory=lambda: Place(0))
    spoke: float = field(default_factory=time.monotonic)

    def chunk(self, number: int) -> None:
        self._at(Place(number))
        if number != self.num_chunks:
            self.check()

    def candidates(self, made: float, num: int) -> None:
        self._at(Place(self.place.chunks, made, num))

    def _at(self, place: Place) -> None:
        self.place = place
        if time.monotonic() - self.spoke >= TELLING_SECONDS:
            self.spoke = time.monotonic()
            self.tell(place)
