import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageSequence

from meta_train.gallery.contour import EXCURSION, FRAMES, choose_view, contour_gif, contour_plot
from meta_train.gallery.descent import Descent, descend, tuned
from meta_train.gallery.samples import holds_images, image_grid, passages
from tasks import FolderImages, Task, get_function, get_task, load_dataset
from tasks.benchmark.report.plots import png
from tasks.functions import surface
from tasks.texts import PLAIN, TextData, read_corpus
from tests.tasks.folders import COLOURS, write_folder

START = torch.tensor([1.5, -0.5])


@pytest.fixture(scope="module")
def bowl() -> Task:
    return get_function("rastrigin-standard", 2)


@pytest.fixture(scope="module")
def descents(bowl: Task) -> list[Descent]:
    options = {"label": "SGD", "start": START, "steps": 30}
    return [descend(bowl, torch.optim.SGD, lr=lr, **options) for lr in (1e-3, 1e-2)]


def pictures(gif: bytes) -> Sequence[Image.Image]:
    return [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))]


def test_surface_has_the_values_of_the_task(bowl: Task) -> None:
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [bowl.evaluate({"x": point})["loss"] for point in points]
    torch.testing.assert_close(surface(bowl)(points), torch.tensor(values, dtype=torch.float64))


def test_descent_is_what_the_optimizer_does(bowl: Task, descents: list[Descent]) -> None:
    x = START.clone().requires_grad_()
    batch = bowl.batch(torch.Generator())
    for point in descents[0].points:
        torch.testing.assert_close(point, x.detach().double(), rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad(bowl.loss({"x": x}, batch), x)
        x = (x - 1e-3 * gradient).detach().requires_grad_()
    torch.testing.assert_close(descents[0].losses, surface(bowl)(descents[0].points))


def test_tuned_takes_the_best_rate_and_none_that_blows_up() -> None:
    quadratic = get_function("quadratic", 2)
    start = quadratic.init(torch.Generator().manual_seed(0))["x"]
    rates = (1e-4, 0.5, 1e30)
    chosen = tuned(quadratic, torch.optim.SGD, rates, label="SGD", start=start, steps=80)
    assert chosen.lr == 0.5
    with_best_last = tuned(quadratic, torch.optim.SGD, (1e30, 1e-4), label="", start=start, steps=80)
    assert with_best_last.lr == 1e-4


def test_view_holds_paths_but_no_far_excursion(bowl: Task, descents: list[Descent]) -> None:
    near = choose_view(bowl, descents)
    (low, high), _ = near.limits
    assert low < -2.9
    assert high > 2.9
    far = torch.tensor([[1e6, 0.0], [torch.nan, 0.0]], dtype=torch.float64)
    lost = Descent("lost", 1.0, torch.cat([descents[0].points, far]), torch.zeros(33))
    assert choose_view(bowl, [lost]).reach < EXCURSION * near.reach


def test_animation_ends_with_the_picture_and_keeps_colours(bowl: Task, descents: list[Descent]) -> None:
    gif = contour_gif(bowl, descents, "bowl")
    frames = pictures(gif)
    assert len(gif) < 2e6
    assert 2 <= len(frames) <= FRAMES
    for picture in (frames[-1], Image.open(io.BytesIO(png(contour_plot(bowl, descents, "bowl"))))):
        colors = {color for _, color in picture.convert("RGB").getcolors(10**6)}
        for wanted in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):
            assert min(sum(abs(a - b) for a, b in zip(color, wanted, strict=True)) for color in colors) < 24
    assert frames[0].tobytes() != frames[-1].tobytes()


def test_image_grids_are_drawn_with_labels(tmp_path: Path) -> None:
    photographs = FolderImages(write_folder(tmp_path / "colours"), image=16)
    for data in (photographs, load_dataset("digits")):
        assert holds_images(data)
        figure = image_grid(data, "title")
        assert len(figure.axes) == 32
        titles = {axes.get_title() for axes in figure.axes}
        assert titles <= ({*COLOURS} if data is photographs else {str(digit) for digit in range(10)})
        assert len(titles) > 1
    colour = figure_colours(image_grid(photographs, "title"))
    assert colour.std(-1).max() > 0.2


def figure_colours(figure: object) -> torch.Tensor:
    picture = Image.open(io.BytesIO(png(figure))).convert("RGB")  # type: ignore[arg-type]
    return torch.tensor(bytearray(picture.tobytes())).float().view(-1, 3) / 255


def test_vectors_are_no_images() -> None:
    assert not holds_images(get_task("teacher").data)  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_passages_are_pieces_of_the_text(unit: str) -> None:
    shown = passages(TextData("topics", 24, unit=unit))
    plain = [passage for passage in shown if "\N{REPLACEMENT CHARACTER}" not in passage]
    assert plain
    text = read_corpus("topics").translate(PLAIN)
    assert all(passage.translate(PLAIN) in text for passage in plain)
