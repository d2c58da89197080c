"""ImageResults: the files that ``scenewise predict`` writes for an image."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scenewise.apps.predict.manifest import Record
from scenewise.apps.predict.ranking import CONFIDENCE, summary
from scenewise.apps.predict.score_files import needs_scores, score_files, write_scores
from scenewise.classes import Classes
from scenewise.files import write_text
from scenewise.inference.auto_window import AutoWindowPredictor
from scenewise.inference.predictor import Prediction, display
from scenewise.visualize.overlay import overlay, save_image, save_labels

GEOJSON = "geojson"  # of --format: written with each image, not for a tool


@dataclass(frozen=True)
class ImageResults:
    """Predicts the labels of an image and writes them, and what else the options ask for.

    Args:
        args: the options of the command.
        predictor: what labels an image.
        out: the folder to write.
    """

    args: argparse.Namespace
    predictor: AutoWindowPredictor
    out: Path

    def files(self, name: str) -> list[Path]:
        """The files written for the image ``name``; the last one is written last."""
        return result_files(self.args, self.out, name, self.predictor.model.classes)

    def predict(
        self, image: Tensor, record: Record, known: Prediction | None = None
    ) -> tuple[Prediction, Record]:
        """The prediction of an image (C, H, W), and ``record`` with what it adds.

        Args:
            image: as the model takes it.
            record: of the image.
            known: its prediction, if it was made with others.

        Raises:
            UserError: the image does not fit into the memory.
        """
        keep = needs_scores(self.args)
        prediction = self.predictor(image, keep=keep) if known is None else known
        labels, confidence = prediction  # (H, W), int64 and float
        if self.args.sure is not None:
            labels[confidence < self.args.sure] = self.predictor.model.classes.ignore_index
        record = {**record, CONFIDENCE: summary(confidence)}
        if self.predictor.side is not None:
            record = {**record, "window": self.predictor.side, "blend": "hann"}
        return prediction, record

    def write(self, image: Tensor, prediction: Prediction, name: str, record: Record) -> None:
        """Write the files of the image ``name``.

        Raises:
            UserError: a file cannot be written; that will not change for the next image.
        """
        args, classes, labels = self.args, self.predictor.model.classes, prediction.labels
        if not args.no_overlay:
            drawn = overlay(display(image, self.predictor.model), labels, classes, args.opacity)
            save_image(self.out / "overlays" / f"{name}.jpg", drawn)
        if args.submission:
            from scenewise.apps.predict.submission import save_submission

            save_submission(args.submission, self.out / "submission", name, labels)
        if args.format == GEOJSON:
            from scenewise.data.formats.geojson import pixel_geojson  # loads all formats

            content = pixel_geojson(labels.numpy(), classes, prediction.confidence.numpy(), name)
            write_text(_geojson_file(self.out, name), json.dumps(content, ensure_ascii=False))
        write_scores(args, self.out, name, prediction, classes)
        save_labels(self.out / "labels" / f"{name}.png", labels, classes, json.dumps(record))


def _geojson_file(out: Path, name: str) -> Path:
    return out / GEOJSON / f"{name}.geojson"


def result_files(args: argparse.Namespace, out: Path, name: str, classes: Classes) -> list[Path]:
    """The files that the options ask for, of the image ``name``; the last one is written last."""
    files = [] if args.no_overlay else [out / "overlays" / f"{name}.jpg"]
    if args.submission:
        from scenewise.apps.predict.submission import submission_file  # loads two datasets

        files.append(submission_file(args.submission, out / "submission", name))
    if args.format == GEOJSON:
        files.append(_geojson_file(out, name))
    return [*files, *score_files(args, out, name, classes), out / "labels" / f"{name}.png"]


def image_options(args: argparse.Namespace) -> list[str]:
    """Those of the options given whose files are of images, not of videos and rasters."""
    names = ("probabilities", "maps", "shares", "contact_sheet")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]
