"""The model card of a repository on the hub: front matter, scores with their protocol, usage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData, constants

from scenewise.errors import UserError
from scenewise.models.hub import CARD, GENERATED

OVERLAY = "overlay.png"
_DATASET = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class About:
    """What the author says about a model.

    Attributes:
        licence: identifier of the hub, for example ``apache-2.0`` or ``cc-by-nc-4.0``.
        dataset: id on the hub of the dataset whose scores are in ``metrics``.
        metrics: the content of the run's ``metrics.json``.
        overlay: whether ``overlay.png`` is uploaded with the model.
    """

    licence: str
    dataset: str | None = None
    metrics: Mapping[str, Any] | None = None
    overlay: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.licence):
            raise UserError(
                f"'{self.licence}' is not a licence of the hub; give its identifier, for example "
                "apache-2.0, mit, cc-by-4.0 or other"
            )
        if self.dataset is not None and not _DATASET.fullmatch(self.dataset):
            raise UserError(f"'{self.dataset}' is not a dataset on the hub; give owner/name")


def card_files(
    repo: str, config: Mapping[str, Any], about: About, files: Sequence[str]
) -> dict[str, bytes]:
    """The model card, and with a dataset's scores the hub's ``.eval_results``.

    Args:
        repo: ``owner/name``.
        config: of :meth:`Segmenter.config`.
        about: what is not in the configuration.
        files: names of the other files of the repository.

    Returns:
        name -> content.

    >>> config = {"model": None, "classes": {"names": ["road", "sky"]}, "preprocessing": {}}
    >>> text = card_files("me/net", config, About("mit"), ["config.json"])["README.md"].decode()
    >>> text.splitlines()[:3]
    ['---', 'library_name: scenewise', 'license: mit']
    """
    try:
        scored = _scored(about.metrics)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the scores are not those of a metrics.json ({error!r}); score the model again with "
            "scenewise validate or test"
        ) from error
    result = {CARD: _card(repo, config, about, files, scored).encode()}
    if about.dataset is not None and scored is not None:
        name = f".eval_results/{about.dataset.rpartition('/')[2]}.yaml"
        result[name] = _eval_results(repo, about.dataset, scored).encode()
    return result


@dataclass(frozen=True)
class _Scores:
    """Scores of one split, 0..1, and what ``metrics.json`` says about them."""

    split: str
    means: dict[str, float]
    classes: dict[str, float]
    about: Mapping[str, Any]


def _scored(metrics: Mapping[str, Any] | None) -> _Scores | None:
    """The scores in ``metrics.json``; entries without a value are left out."""
    stage = next((name for name in ("test", "val") if name in (metrics or {})), None)
    if metrics is None or stage is None:
        return None
    about = metrics.get("about", {})
    values = {k: float(v) for k, v in metrics[stage].items() if v is not None}
    classes = {k.removeprefix("iou/"): v for k, v in values.items() if k.startswith("iou/")}
    means = {k: v for k, v in values.items() if "/" not in k and k not in ("epoch", "step")}
    means["miou"]  # the one that front matter and leaderboards take
    return _Scores(about.get("data", {}).get("split", stage), means, classes, about)


def _card(
    repo: str,
    config: Mapping[str, Any],
    about: About,
    files: Sequence[str],
    scored: _Scores | None,
) -> str:
    recipe = config["model"] or {"name": "custom", "backbone": "custom"}
    names = config["classes"]["names"]
    parts = [
        f"---\n{_front_matter(repo, config, about, scored)}\n---\n{GENERATED}",
        f"# {repo.rpartition('/')[2]}",
        f"Scene segmentation with `{recipe['name']}` on the backbone `{recipe['backbone']}`: "
        f"{len(names)} classes, {_origin(config.get('source') or {})}.",
    ]
    if about.overlay:
        parts.append(f"![An image with the labels of this model]({OVERLAY})")
    parts.append(_usage(repo, files))
    parts.append("## Scores\n\n" + ("Not scored." if scored is None else _scores(scored)))
    if scored is None or not scored.classes:
        parts.append("## Classes\n\n" + ", ".join(map(_cell, names)))
    parts.append("## Files\n\n" + "\n".join(f"- `{name}`" for name in files))
    return "\n\n".join(parts) + "\n"


def _origin(source: Mapping[str, Any]) -> str:
    """Where the weights come from, as ``config.json`` says.

    >>> _origin({"file": "net.pth", "sha256": "ab", "family": "mmseg"})
    'converted by Scenewise from `net.pth` (mmseg, SHA-256 `ab`)'
    """
    if "base_model" in source:
        return f"fine-tuned with Scenewise from `{source['base_model']}`"
    if "file" in source:
        family, digest = source.get("family"), source.get("sha256")
        return f"converted by Scenewise from `{source['file']}` ({family}, SHA-256 `{digest}`)"
    return "trained with Scenewise"


def _front_matter(
    repo: str, config: Mapping[str, Any], about: About, scored: _Scores | None
) -> str:
    recipe = config["model"] or {}
    results = None if scored is None else [_result(about.dataset, scored)]
    data = ModelCardData(
        license=about.licence,
        library_name="scenewise",
        pipeline_tag="image-segmentation",
        tags=[
            tag
            for tag in ("semantic-segmentation", recipe.get("name"), recipe.get("backbone"))
            if tag is not None
        ],
        base_model=(config.get("source") or {}).get("base_model"),
        datasets=None if about.dataset is None else [about.dataset],
        metrics=None if scored is None else ["mean_iou"],
        model_name=repo.rpartition("/")[2],
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _result(dataset: str | None, scored: _Scores) -> EvalResult:
    """The entry of the card's ``model-index``; values in percent, as papers print them."""
    data = scored.about.get("data", {})
    return EvalResult(
        task_type="image-segmentation",
        dataset_type=dataset or data.get("format", "unknown"),
        dataset_name=dataset or data.get("format", "unknown"),
        dataset_split=scored.split,
        metric_type="mean_iou",
        metric_name="mIoU (%)",
        metric_value=_percent(scored.means["miou"]),
        metric_args={"protocol": scored.about.get("protocol", "unknown")},
    )


def _usage(repo: str, files: Sequence[str]) -> str:
    """Three lines that load the model, where its weights are among the files."""
    if "model.safetensors" not in files:
        graph = next((f for f in files if f.endswith((".onnx", ".xml"))), None)
        how = f"\n\n```sh\nscenewise predict street.jpg --model {graph} --out labels\n```"
        return f"## Use\n\nDownload the files.{how if graph else ''}"
    code = (
        "from scenewise import Predictor, load_model\n"
        f'predictor = Predictor(load_model("hf-hub:{repo}"))\n'
        'labels = predictor("street.jpg").labels  # (H, W) class ids'
    )
    return f"## Use\n\n```python\n{code}\n```"


def _scores(scored: _Scores) -> str:
    """Means, how they were measured, and the IoU of each class."""
    data = scored.about.get("data", {})
    images = f"{data['images']} images of " if "images" in data else ""
    lines = [
        f"On {images}the split `{scored.split}` (layout `{data.get('format', 'unknown')}`), one "
        "confusion matrix over all pixels.",
        "",
        f"- protocol: {scored.about.get('protocol', 'unknown')}",
        f"- SHA-256 of the weights: `{scored.about.get('model_sha256', 'unknown')}`",
        f"- SHA-256 of the list of images: `{data.get('sha256', 'unknown')}`",
        "",
        "| score | % |",
        "|---|---:|",
        *(f"| {k.replace('_', ' ')} | {_percent(v):.1f} |" for k, v in scored.means.items()),
    ]
    if "limit_batches" in data:
        lines.insert(1, f"Only a part of it was scored (limit of {data['limit_batches']} batches).")
    if scored.classes:
        lines += ["", "| class | IoU, % |", "|---|---:|"]
        lines += [f"| {_cell(k)} | {_percent(v):.1f} |" for k, v in scored.classes.items()]
    return "\n".join(lines)


def _eval_results(repo: str, dataset: str, scored: _Scores) -> str:
    """The hub's ``.eval_results/*.yaml``: one entry for a leaderboard of the dataset."""
    entry = {
        "dataset": {"id": dataset, "task_id": "default"},
        "value": _percent(scored.means["miou"]),
        "source": {"url": f"{constants.ENDPOINT}/{repo}", "name": "Model card"},
        "notes": f"mIoU in percent, split {scored.split}, {scored.about.get('protocol')}",
    }
    return str(yaml.safe_dump([entry], sort_keys=False))


def _percent(value: float) -> float:
    return round(100 * value, 2)


def _cell(name: str) -> str:
    """A class name in a table of Markdown.

    >>> _cell("a|b <i>")
    'a\\\\|b &lt;i>'
    """
    return name.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
