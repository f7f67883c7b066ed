"""The page of a demo, by Gradio: controls, a student's image beside its teacher's."""

import importlib
import ipaddress
import os
from typing import Any

from kdiff_jax.errors import ConfigError, UserError
from kdiff_jax.playground import side_by_side
from kdiff_jax.playground.side_by_side import Sides

PASSWORD = "KDIFF_DEMO_PASSWORD"  # of the environment
FONTS = ["system-ui", "sans-serif"]  # none that a page would fetch
BUTTONS = ["download", "fullscreen"]  # not "share", which uploads
HOW = (
    "The same noise through both. Between two seeds the noise is interpolated on the"
    " sphere. Times are those of one image, compiled before."
)


def gradio() -> Any:
    """The library, which calls nobody.

    Raises:
        ConfigError: If it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise ConfigError(
            f"gradio: is not installed ({error}); pip install 'kdiff_jax[demo]'"
        ) from error


def make(sides: Sides, name: str) -> Any:
    """The page, to be launched.

    Args:
        sides: What makes the images.
        name: Heading of the page.
    """
    gr = gradio()
    first = sides.show(_first(sides), seed=0)
    captions = side_by_side.lines(first)

    def show(wanted, seed, other, mix):
        try:
            shown = sides.show(
                _wanted(sides, wanted),
                seed=_seed("seed", seed),
                other_seed=_seed("other seed", other),
                mix=float(mix),
            )
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        images = [side_by_side.picture(one.image) for one in shown]
        pairs = zip(images, side_by_side.lines(shown), strict=True)
        return [value for pair in pairs for value in pair]

    with gr.Blocks(title=name, analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\n{HOW}")
        with gr.Row():
            wanted = _asking(gr, sides)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            other = gr.Number(1, label="Other seed", precision=0, minimum=0)
            mix = gr.Slider(0, 1, 0, step=0.01, label="From seed to other seed")
        outputs = []
        with gr.Row():
            for one, caption in zip(first, captions, strict=True):
                with gr.Column():
                    image = side_by_side.picture(one.image)
                    about = dict(label=one.title, elem_id=f"image_{one.title}")
                    about |= dict(format="png", interactive=False, buttons=BUTTONS)
                    outputs.append(gr.Image(image, **about))
                    outputs.append(gr.Markdown(caption, elem_id=f"told_{one.title}"))
        button = gr.Button("Make", elem_id="make")
        inputs = [wanted, seed, other, mix]
        button.click(show, inputs, outputs, api_name="show")
        for control in inputs:
            # A slider that is drawn asks once it is let go, a text once it is sent.
            event = getattr(control, "release", None) or getattr(
                control, "submit", None
            )
            (event or control.change)(
                show, inputs, outputs, show_progress="hidden", api_name=False
            )
    return page.queue(default_concurrency_limit=1)


def serve(page: Any, *, host: str, port: int, auth: tuple[str, str] | None) -> None:
    """Answers from a thread of its own, until the process ends.

    Args:
        page: What `make` has made.
        host: Address to answer at.
        port: Port of it.
        auth: Name and password that are asked for, or None.

    Raises:
        ConfigError: If the address cannot be had.
    """
    gr = gradio()
    theme = gr.themes.Default(font=FONTS, font_mono=["monospace"])
    about: dict[str, Any] = dict(share=False, quiet=True, ssr_mode=False, theme=theme)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=auth,
            prevent_thread_lock=True,
            **about,
        )
    except OSError as error:
        raise ConfigError(
            f"--port={port}: cannot be had at {host}; name another"
        ) from error


def auth(host: str, password: str | None) -> tuple[str, str] | None:
    """Name and password that the page asks for; None for all on this machine.

    Raises:
        ConfigError: If others could use it, and there is no password.
    """
    if password:
        return "kdiff", password
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise ConfigError(
            f"--host={host}: others could use the page; set {PASSWORD}, or leave --host"
            " out and forward the port"
        )
    return None


def _asking(gr, sides: Sides) -> Any:
    """The control that says what is asked for."""
    student = sides.student
    if student.reads_prompts:
        return gr.Textbox(label="Prompt", elem_id="wanted")
    num = student.model.num_classes
    choices = [str(k) for k in range(max(num, 1))]
    return gr.Dropdown(
        choices, value="0", label="Class", visible=num > 0, elem_id="wanted"
    )


def _first(sides: Sides) -> int | str:
    return "" if sides.student.reads_prompts else 0


def _wanted(sides: Sides, given) -> int | str:
    if sides.student.reads_prompts:
        return str(given or "")
    try:
        return int(given or 0)
    except (TypeError, ValueError):
        raise ConfigError(f"class={given}: must be a whole number") from None


def _seed(name: str, given) -> int:
    if not isinstance(given, (int, float)) or given != int(given):
        raise ConfigError(f"{name}={given}: must be a whole number")
    return int(given)
