"""Write one page for each idea into docs/attention/, from the docstrings and trained networks.

    python -m bench.pages              # the pages; a test holds them up to date
    python -m bench.pages --pictures   # also draw what each network sees; trains those that
                                       # bench.networks has not

The text of a page is the docstring of its code, so page and code cannot disagree.
"""

import argparse
import ast
import inspect
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from bench.docstrings import table
from bench.marked import replace_marked
from bench.photographs import PHOTOGRAPHS
from scenewise import attention
from scenewise.files import write_text
from scenewise.models import Segmenter

_PHOTOGRAPHS = """\
## On photographs

![Photographs, and what a marked pixel of each is similar to](../images/photographs.webp)

*The weights of the [Gaussian non-local block](non_local.md), a softmax over similar features that
has no learned query and key, at one pixel of each photograph. The features are those of
EfficientNet-Lite0, trained to classify ImageNet: no mask was ever seen. They are scaled to length 1
at each pixel, and the cosine is multiplied by 10, chosen by eye. A pixel of an eye finds the other
eye, one of a tower the other towers: objects that look alike. Learned attention may look for
something else, such as the signal at the far side in the scenes of the other pages. Drawn by
`python -m bench.photographs`.*

A network for street scenes says little about these photographs, so its attention is not shown on
them: one trained on CamVid (images not distributed here) calls the coffee "tree" with 88.7 %, and
without its position attention with 88.4 %.

Photographs, as they come with scikit-image: {authors}.
"""
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scenewise"
FOLDER = ROOT / "docs" / "attention"
STEPS = 120


@dataclass(frozen=True)
class Idea:
    """A page: its code, its test, and the network that its image is made with, if any."""

    file: str
    test: str
    network: str | None = None

    @property
    def page(self) -> Path:
        """Where the page is."""
        return FOLDER / f"{Path(self.file).stem}.md"

    @property
    def picture(self) -> Path:
        """Where its picture is."""
        return FOLDER / "images" / f"{self.network}.png"


def block(name: str, network: str | None = None) -> Idea:
    """An attention block's idea."""
    return Idea(f"attention/{name}.py", f"tests/attention/test_{name}.py", network)


IDEAS = (
    block("position", "position"),
    block("channel", "channel"),
    block("criss_cross", "ccnet"),
    block("non_local", "nonlocal"),
    block("sagan", "sagan"),
    block("ocnet", "ocnet_base"),
    block("interaction", "interaction"),
    block("squeeze_excite", "se"),
    block("cbam", "cbam"),
    block("ocr", "ocr"),
    block("interlaced", "isa"),
    block("disentangled", "dnl"),
    block("global_context", "gcnet"),
    block("expectation_maximisation", "emanet"),
    block("asymmetric", "ann"),
    block("context_encoding", "encnet"),
    block("pointwise", "psanet"),
    block("compact", "dranet"),
    Idea("models/pooling.py", "tests/models/test_pooling.py", "pspnet"),
)


def main() -> None:
    """Write every page, and with ``--pictures`` every picture before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", action="store_true")
    if parser.parse_args().pictures:
        draw_pictures()
    for idea in IDEAS:
        write_text(idea.page, page(idea))
    write_text(FOLDER / "README.md", index())
    replace_marked(ROOT / "README.md", "blocks", readme_table())


def index() -> str:
    """The list of the pages, and photographs."""
    authors = "; ".join(f"*{shown.name}*, {shown.author}" for shown in PHOTOGRAPHS)
    rows = ["# One page for each idea", "", "| idea | from | code | test |", "|---|---|---|---|"]
    for idea in IDEAS:
        title, reference = heading(idea)
        code, test = f"../../src/scenewise/{idea.file}", f"../../{idea.test}"
        rows.append(
            f"| [{title}]({idea.page.name}) | {reference} | [code]({code}) | [test]({test}) |"
        )
    return "\n".join(rows) + f"\n\n{_PHOTOGRAPHS.format(authors=authors)}"


def readme_table() -> str:
    """The README's table: idea, paper, classes, file, test."""
    rows = ["| idea | paper | class | file | test |", "|---|---|---|---|---|"]
    for idea in IDEAS:
        title, reference = heading(idea)
        name, _, _ = title.partition(":")
        tree = ast.parse((SOURCE / idea.file).read_text(encoding="utf-8"))
        classes = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        file, test = Path(idea.file).name, Path(idea.test).name
        rows.append(
            f"| [{name}](docs/attention/{idea.page.name}) | {reference.rstrip('.')} | "
            f"{', '.join(f'`{c}`' for c in classes)} | [{file}](src/scenewise/{idea.file}) | "
            f"[{test}]({idea.test}) |"
        )
    return "\n".join(rows)


def page(idea: Idea) -> str:
    """Title, reference, image, then every class and every exported function with its docstring."""
    tree = ast.parse((SOURCE / idea.file).read_text(encoding="utf-8"))
    title, reference = heading(idea)
    parts = [f"# {title}", reference]
    if idea.picture.exists():
        parts.append(f"![What the network `{idea.network}` sees](images/{idea.picture.name})")
        parts.append(
            f"*The network `{idea.network}` after {STEPS} steps on generated scenes, on a scene "
            "that it never saw. Drawn by `python -m bench.pages --pictures`.*"
        )
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and is_public(node):
            text = ast.get_docstring(node)
            if text:
                parts += [f"## `{node.name}`", markdown(text)]
    code, test = f"../../src/scenewise/{idea.file}", f"../../{idea.test}"
    parts.append(f"Code: [{idea.file}]({code}). Test: [{Path(idea.test).name}]({test}).")
    return "\n\n".join(parts) + "\n"


def is_public(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether a page shows it; a function that the package does not export is a helper."""
    return node.name in attention.__all__ or (
        isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def heading(idea: Idea) -> tuple[str, str]:
    """First line of the module's docstring, and the rest, where the paper is."""
    tree = ast.parse((SOURCE / idea.file).read_text(encoding="utf-8"))
    first, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    return first.rstrip("."), " ".join(rest.split())


def markdown(text: str) -> str:
    """A docstring as Markdown: formulas, code, sections; nothing is left out.

    >>> markdown("Sum.\\n\\n.. math:: a +\\n          b\\n\\n>>> 1 + 1\\n2")
    'Sum.\\n\\n$$ a + b $$\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    blocks = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith(".. math::"):
            blocks.append(f"$$ {' '.join(part.removeprefix('.. math::').split())} $$")
        elif part.startswith(">>>"):
            blocks.append(f"```pycon\n{part}\n```")
        elif re.match(r"=+ +=", part):
            blocks.append(_prose(table(part)))
        elif re.match(r"(Args|Returns|Raises|Attributes|Yields):", part):
            name, _, lines = part.partition("\n")
            blocks.append(f"**{name.rstrip(':')}**\n\n{_entries(lines)}")
        else:
            blocks.append(_prose(part))
    return "\n\n".join(blocks)


def _entries(lines: str) -> str:
    entries: list[str] = []
    for line in inspect.cleandoc(lines).splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    marked = [re.sub(r"^([\w, ]+):", r"`\1`:", entry) for entry in entries]
    return "\n".join(f"- {_prose(entry)}" for entry in marked)


def _prose(text: str) -> str:
    text = re.sub(r":\w+:`~?\.?([\w.]+)`", lambda m: f"`{m[1].rsplit('.', 1)[-1]}`", text)
    return text.replace("``", "`")


def draw_pictures() -> None:
    """Draw what a pixel that needs far context attends to, in each idea's trained network."""
    from bench.networks import MODELS
    from scenewise import load_model
    from scenewise.apps.demo.decided import decided_pixel
    from scenewise.apps.demo.experiment import scenes_data, train_on_scenes
    from scenewise.data import Scenes
    from scenewise.visualize import attention_maps, explain_figure, save_image

    warnings.simplefilter("ignore")
    scenes = scenes_data(1, (64, 192), 0).dataset("val")
    assert isinstance(scenes, Scenes)
    for idea in IDEAS:
        if idea.network is None:
            continue
        trained = MODELS / f"{idea.network}-{STEPS}"
        if trained.exists():
            model = load_model(trained)
        else:
            model = train_on_scenes(idea.network, steps=STEPS, progress=False).model
        with attention_maps(model) as maps:
            attends = bool(maps.blocks())
        example = decided_pixel(model, scenes)
        image, mask = scenes.read(example.scene)
        if attends:
            explain_figure(model, image, [example.at], idea.picture)
        else:
            save_image(idea.picture, labelled(image, mask, model))


def labelled(image: Tensor, mask: Tensor, model: Segmenter) -> Image.Image:
    """A scene, its truth and what the network says, side by side."""
    from scenewise import Predictor
    from scenewise.visualize import overlay

    shown = [
        Image.fromarray(image.permute(1, 2, 0).numpy()),
        *(
            overlay(image, labels, model.classes, opacity=0.85)
            for labels in (mask, Predictor(model)(image).labels)
        ),
    ]
    height, width = 2 * image.shape[1], 2 * image.shape[2]
    row = Image.new("RGB", (3 * width + 40, height), "white")
    for index, picture in enumerate(shown):
        row.paste(picture.resize((width, height)), (index * (width + 20), 0))
    return row


if __name__ == "__main__":
    main()
