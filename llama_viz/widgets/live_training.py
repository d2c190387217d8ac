"""A small model trained while one looks on: losses, heads and texts grow, and Stop is heard."""

from __future__ import annotations

import asyncio
import logging
from io import BytesIO
from typing import TYPE_CHECKING, Any

import ipywidgets

from llama_viz import figures
from llama_viz.widgets.bundle import picture_bundle
from llama_viz.widgets.generation import BREATH_SECONDS, InUseError

if TYPE_CHECKING:
    from llama_viz.training.live import Course, LiveRun

logger = logging.getLogger("llama_viz")

START, STOP, GO_ON, AGAIN = "Start", "Stop", "Go on", "Train again"


class LiveTraining(ipywidgets.VBox):
    """Train a small model on the page: Start, and Stop at any step; then go on, or begin anew.

    run is a training.live.LiveRun. The page stays usable meanwhile: between two steps, some
    hundredths of a second, the kernel hears Stop and other cells. recorded is the course of a run
    that was stored; it is shown until Start is pressed. `figure` and `png` are what is in view, and
    stay where no kernel runs; run.lm is the model, at any moment. JupyterLab trains it in a thread
    beside the cells: press Stop before you measure something, or weights change in mid-pass.
    """

    _task: asyncio.Task[None] | None = None

    def __init__(self, run: LiveRun, *, recorded: Course | None = None) -> None:
        self.run = run
        self._recorded = recorded
        self._stop_asked = False
        self._button = ipywidgets.Button(description=START, button_style="primary")
        self._anew = ipywidgets.Button(description="Begin anew", disabled=True)
        self._progress = ipywidgets.IntProgress(max=run.recipe.steps)
        self._status = ipywidgets.Label()
        self._image = ipywidgets.Image(format="png")
        # A text area holds text and nothing else, whatever the model writes.
        self._text = ipywidgets.Textarea(
            description="It writes", disabled=True, rows=2, layout={"width": "98%"}
        )
        self._button.on_click(lambda _: self._pressed())
        self._anew.on_click(lambda _: self.restart())
        self._draw()
        self._say("A recorded run. Press Start to train your own." if recorded else "Press Start.")
        controls = ipywidgets.HBox([self._button, self._anew, self._progress, self._status])
        super().__init__([controls, self._image, self._text])

    @property
    def running(self) -> bool:
        """Whether it trains at this moment."""
        return self._task is not None and not self._task.done()

    @property
    def course(self) -> Course:
        """The course in view: the recorded one until the first start, then the run's own."""
        return self.run.course if self._recorded is None else self._recorded

    def start(self) -> asyncio.Task[None]:
        """Train on, as Start does, and return the task. Raises InUseError while it trains."""
        if self.running:
            raise InUseError("a run is under way; stop it first")
        self._stop_asked = False
        self._task = asyncio.get_running_loop().create_task(self._train())
        if self._recorded is not None or self.run.done:
            self._recorded = None
            if self.run.step:
                self.run.restart()
        return self._task

    def stop(self) -> None:
        """Ask the run to end after the step under way; its model is kept."""
        self._stop_asked = True

    def restart(self) -> None:
        """Throw the model away, and show the fresh one. Raises InUseError while it trains."""
        if self.running:
            raise InUseError("a run is under way; stop it first")
        self._recorded = None
        self.run.restart()
        self._show("Begun anew.")

    def close(self) -> None:
        """End the run, if there is one, and take the widget off the page."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        super().close()

    def _pressed(self) -> None:
        if self.running:
            self.stop()
        else:
            self.start()

    async def _train(self) -> None:
        """Step after step, until the last one, or until somebody pressed Stop."""
        said = "Stopped"
        try:
            self._show("Training …")
            await asyncio.sleep(BREATH_SECONDS)
            while not (self._stop_asked or self.run.done):
                if self.run.advance():
                    await asyncio.sleep(BREATH_SECONDS)
                    self._draw()
                self._say("Training …")
                await asyncio.sleep(BREATH_SECONDS)
            if self.run.done:
                said = "Done"
        except KeyboardInterrupt:
            said = "Stopped by an interrupt of the kernel"
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Nobody expected this one: the line is for the reader, the log for whoever mends it.
            said = f"{type(error).__name__}: {error}"
            logger.exception("the live training failed")
        finally:
            self._task = None
            self._show(f"{said}.")

    def _show(self, said: str) -> None:
        """Everything as it is now."""
        self._draw()
        self._say(said)

    def _say(self, said: str) -> None:
        running, run = self.running, self.run
        self._button.description = (
            STOP if running else START if self._recorded is not None or run.step == 0
            else AGAIN if run.done else GO_ON
        )  # fmt: skip
        self._button.button_style = "warning" if running else "primary"
        self._anew.disabled = running or run.step == 0
        self._progress.value = run.step
        where = "" if self._recorded is not None else f" Step {run.step} of {run.recipe.steps}."
        self._status.value = said + where

    def _draw(self) -> None:
        course = self.course
        now = max(course.held_out)
        self.figure = figures.training_course(
            course.train, course.held_out, course.heads, course.texts, steps=course.steps,
            references=course.references, prompt=course.prompt,
        )  # fmt: skip
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png")
        self.png = self._image.value = buffer.getvalue()
        self._text.value = f"step {now}: {course.prompt}{course.texts[now]}"

    def describe(self) -> str:
        """The run in words: its losses, and what it writes."""
        course = self.course
        now = max(course.texts)  # what is measured last, where a thread trains meanwhile
        first, last = course.held_out[min(course.held_out)], course.held_out[now]
        return (
            f"Live training on {course.name}: {now} of {course.steps} steps.\n"
            f"Held-out loss: from {first:.2f} to {last:.2f} nats per token.\n"
            f"Step {now} writes: {course.prompt + course.texts[now]!r}"
        )

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live widget, and for a page without a kernel the picture in view."""
        return picture_bundle(self.model_id, self.describe(), self.png), {}
