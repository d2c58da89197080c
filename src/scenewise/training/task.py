"""``SegmentationTask``: the training, validation and test steps of a network, for Lightning."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scenewise.attention.kernels.precision import upcast
from scenewise.classes import Classes
from scenewise.data.value_range import ImageFormat
from scenewise.errors import UserError, choose
from scenewise.inference.predictor import Predictor
from scenewise.inference.quality import Quality, quality_predictor
from scenewise.models.activation_checkpointing import recompute_backbone
from scenewise.models.freeze import Freeze, hold_statistics
from scenewise.models.freeze import freeze as freeze_parts
from scenewise.models.optimize.depthwise import fast_depthwise
from scenewise.models.preprocessing import Preprocessing
from scenewise.models.segmenter import Segmenter, SegmenterOutput
from scenewise.training.checkpoint import (
    exact_state,
    refuse_other_model,
    restore_exact_state,
    shapes_of,
)
from scenewise.training.defaults import begin, default_recipe
from scenewise.training.distributed import full_tensor
from scenewise.training.forecast import Forecaster
from scenewise.training.losses import (
    OHEM,
    Loss,
    LossName,
    OverlapLoss,
    cross_entropy,
    of_upsampled,
    segmentation_loss,
)
from scenewise.training.metrics import SegmentationMetrics
from scenewise.training.optim import (
    OptimizerName,
    build_optimizer,
    gammas,
    group_options,
    parameter_groups,
    poly_schedule,
    restart_schedule,
    start_gammas,
)
from scenewise.training.overlap_losses import dice_loss, lovasz_softmax
from scenewise.training.pseudo_labels import cut_mix, ramp, taught_labels

_RAMP = 0.1  # share of the steps in which the loss on unlabelled images gets its weight


class _Validated(TypedDict):
    """When a validation ran, and its confusion matrix."""

    epoch: int
    step: int
    matrix: Tensor


class SegmentationTask(LightningModule):
    """Train, validate and test a network: loss, optimiser, schedule and scores.

    Two recipes give what is not chosen. From ImageNet weights: AdamW with warm-up and cross-entropy
    + Dice, as measured on few images of one's own. Otherwise, or with ``optimizer="sgd"``, DANet's
    (Fu et al., CVPR 2019): SGD with momentum 0.9 and weight decay 1e-4, ten times the rate for the
    head, the sum of the network's losses. Both have a poly schedule with power 0.9 in each step.
    Scores come from one confusion matrix over the whole split.

    Args:
        classes: what the ids in the masks mean; the dataset has them.
        images: channels and values of the images; the data module has them. Default: 8-bit RGB.
        network: name of the network; `scenewise models` lists them. Default: danet_plus, or danet
            for backbones without a feature map at stride 4.
        backbone: "tiny" or a timm model. Default: resnet50 with a CUDA GPU, else
            tf_efficientnet_lite0.
        pretrained: start the backbone from timm's ImageNet weights. Default: if available, else
            from random weights with a warning.
        start: trained model to start from, with any classes: whatever load_model takes. It brings
            its network and preprocessing, so the arguments from network to head may not contradict
            it; classifiers start anew, except for classes of the same name.
        freeze: leave parts of the network as they are, batch-norm statistics included: "backbone",
            "all-but-classifier", or the number of its first stages.
        weights: folder or .ckpt of a trained model with the classes of the data, to test or to
            train on. It brings its own network: the arguments from network to head are then
            ignored.
        backbone_weights: file of tensors, whole or partial, to start the backbone from.
        output_stride: size of the image over that of the feature map: 8, 16 or 32. Default: 8
            with a CUDA GPU, else 16.
        multi_grid: dilations of the last ResNet stage, for example [4, 8, 16].
        auxiliary: train an auxiliary FCN head on the third stage. Default: as published.
        variant: whose code of the network to follow, where several are published. Default: the
            authors'.
        head: further options of the network, for example {"similarity": "direct"}.
        optimizer: "sgd" or "adamw". Default: adamw for a backbone with ImageNet weights or layer
            norm (transformers, ConvNeXt), else sgd.
        lr: learning rate of the backbone. Default: 5e-4 for adamw, 1e-4 with layer norm; for sgd
            0.01 divided by the sum of the weights of the losses, 0.0033 for DANet's three.
        momentum: of SGD.
        weight_decay: on every parameter, norms and biases included. Default: 1e-4 for sgd, 0.01
            for adamw.
        head_multiplier: factor of the learning rate for all but the backbone. Default: 10 for sgd;
            for adamw 2, or 10 with layer norm.
        layer_decay: factor of the learning rate from one layer of a vision transformer to the one
            before it, for example 0.75; norms and biases then have no weight decay.
        gamma_start: start of the learnt scales of attention blocks. Default: as published, 0 in
            most, and unchanged in a trained model.
        gamma_rate: factor of the head's learning rate for these scales.
        power: of the poly schedule.
        floor: factor of the learning rate at the end, 0 to 1.
        warmup: number of warm-up steps of the learning rate. Default: none for sgd; for adamw 5 %
            of the steps, at most 500.
        loss: of the main logits: "cross_entropy", "cross_entropy+dice" or "cross_entropy+lovasz";
            the sums also count the overlap of each class, in which rare classes weigh as much.
            Default: the first for sgd, the second for adamw.
        class_weights: one factor for each class in the cross-entropy, "even", or "auto": more for
            classes with few pixels in the training images (``scenewise.training.balance``).
            Default: even for sgd, auto for adamw.
        ohem: count only hard pixels in the main loss (online hard example mining).
        ohem_threshold: pixels whose true class has at most this probability are hard.
        ohem_min_kept: minimum number of pixels of a batch that count.
        unlabelled_threshold: a pixel of an unlabelled image counts where the average of the network
            gives its class at least this probability.
        unlabelled_weight: of the loss on unlabelled images, which it gets over the first tenth of
            the steps.
        checkpoint_activations: recompute the backbone's blocks in the backward pass: much less
            memory for about a fifth more arithmetic.
        compile: train with torch.compile, which takes minutes at first and needs a C++ compiler.
        eval_window: validate and test in windows of this side, in pixels, or 0 for whole images; a
            protocol has its own. Default: whole images; where they would take more than the
            training, or more memory than is free, a training takes the side of the crops and says
            so; `validate` and `test` take what the run was scored with.
        protocol: validate and test as a publication did, see docs/evaluation.md; by default whole
            images at one scale, without flip.
        quality: validate and test with "fast" (the default: one pass), "good" (also the mirror
            image) or "best" (also four scales, 10.75 times the pixels).

    Raises:
        UserError: an unknown network, protocol, backbone or option, a number outside its range, or
            weights of a model with another number of classes.

    >>> task = SegmentationTask(Classes.numbered(3), network="fcn", backbone="tiny")
    >>> task.model.classes.names
    ('class_0', 'class_1', 'class_2')
    """

    class_weights: Tensor | None

    def __init__(  # noqa: PLR0913 - the options of --model
        self,
        classes: Classes,
        images: ImageFormat | None = None,
        network: str | None = None,
        backbone: str | None = None,
        pretrained: bool | None = None,
        start: str | None = None,
        freeze: Freeze | None = None,
        weights: str | None = None,
        backbone_weights: str | None = None,
        output_stride: int | None = None,
        multi_grid: list[int] | None = None,
        auxiliary: bool | None = None,
        variant: str | None = None,
        head: dict[str, Any] | None = None,
        optimizer: OptimizerName | None = None,
        lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        head_multiplier: float | None = None,
        layer_decay: float | None = None,
        gamma_start: float | None = None,
        gamma_rate: float = 1.0,
        power: float = 0.9,
        floor: float = 0.0,
        warmup: int | None = None,
        loss: LossName | None = None,
        class_weights: list[float] | Literal["auto", "even"] | None = None,
        ohem: bool = False,
        ohem_threshold: float = 0.7,
        ohem_min_kept: int = 100_000,
        unlabelled_threshold: float = 0.95,
        unlabelled_weight: float = 1.0,
        checkpoint_activations: bool = False,
        compile: bool = False,
        eval_window: int | None = None,
        protocol: str | None = None,
        quality: Quality | None = None,
    ) -> None:
        super().__init__()
        begun = begin(
            classes,
            images or ImageFormat(),
            start=start,
            weights=weights,
            network=network,
            pretrained=pretrained,
            backbone=backbone,
            backbone_weights=backbone_weights,
            output_stride=output_stride,
            multi_grid=multi_grid,
            auxiliary=auxiliary,
            variant=variant,
            head=head,
        )
        self.model = begun.model.to(memory_format=torch.channels_last)
        fast_depthwise(self.model)
        self.trained, self.start_report = begun.trained, begun.report
        self.frozen = freeze
        if freeze is not None:
            freeze_parts(self.model, freeze)
            hold_statistics(self.model)
        if checkpoint_activations:
            recompute_backbone(self.model.backbone)
        self.classes = classes
        recipe = default_recipe(self.model, begun.trained, optimizer)
        self.optimizer_name = recipe.optimizer
        self.lr = recipe.lr if lr is None else lr
        self.momentum = momentum
        self.weight_decay = recipe.weight_decay if weight_decay is None else weight_decay
        self.head_multiplier = (
            recipe.head_multiplier if head_multiplier is None else head_multiplier
        )
        self.layer_decay = layer_decay
        self.gamma_start, self.gamma_rate = gamma_start, gamma_rate
        self.power = power
        self.floor = floor
        self.warmup, self.warmup_share = warmup, recipe.warmup
        self.loss = loss or recipe.loss
        self.overlap = _overlap(self.loss)
        self.ohem = OHEM(ohem_threshold, ohem_min_kept) if ohem else None
        self.unlabelled_threshold = unlabelled_threshold
        self.unlabelled_weight = unlabelled_weight
        self.teacher: Callable[[], Segmenter] | None = None  # of images without labels
        self.ramp_steps = 1
        self.eval_window = eval_window
        self.protocol, self.quality = protocol, quality
        if protocol is not None and quality is not None:
            raise UserError("--protocol sets scales and mirror images itself; drop --quality")
        if protocol is not None:
            Predictor.from_protocol(self.model, protocol)  # raises if it is unknown
        self.metrics = SegmentationMetrics(classes)
        self.matrix: Tensor | None = None
        self.scores: dict[str, float] = {}
        self.forecaster: Forecaster | None = None  # where the length was chosen by measuring
        self.labels: Tensor | None = None  # (B, H, W), predicted for the last batch scored
        self.validated: _Validated | None = None
        self._restored: dict[str, Any] = {}
        self._options: list[dict[str, Any]] = []  # of the optimiser's groups
        self._configured_lr = 1.0  # when they were made
        self.balance = class_weights == "auto" or (class_weights is None and recipe.balance)
        numbers = None if isinstance(class_weights, str) else class_weights
        self.register_buffer("class_weights", _factors(numbers, classes), persistent=False)
        self._balance_asked = class_weights == "auto"
        self._check(compile and checkpoint_activations)
        if gamma_start is not None:
            start_gammas(self.model, gamma_start)
        self.losses_of = torch.compile(self.losses) if compile else self.losses
        cached = self.losses_of_features
        self.losses_cached = torch.compile(cached) if compile else cached

    def weigh_classes(self, values: list[float]) -> None:
        """Set the factor of each class in the cross-entropy.

        Raises:
            UserError: not one for each class, or not numbers of 0 or more.
        """
        self.class_weights, self.balance = _factors(values, self.classes), False

    def train(self, mode: bool = True) -> "SegmentationTask":
        """Training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.frozen is not None:
            hold_statistics(self.model)
        return self

    def setup(self, stage: str) -> None:
        """Take the groups of classes to score from the data, and choose the metrics."""
        data = getattr(self.trainer, "datamodule", None)
        self.metrics.fitting = self.trainer.state.fn == TrainerFn.FITTING
        if self.metrics.fitting:
            self.model.thresholds = {}  # they were chosen for other weights
        self.metrics.context_classes = getattr(data, "context_classes", ())
        self.metrics.categories = getattr(data, "categories", None)

    def losses(
        self,
        images: Tensor,
        masks: Tensor,
        strong: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Loss:
        """The losses of images (B, C, H, W) with masks (B, H, W).

        Logits stay at low resolution, and one of them at a time is upsampled inside its loss. With
        ``strong`` views of unlabelled images and their pseudo-``labels``, of the same shapes, one
        forward pass takes both; their cross-entropy is the part "unlabelled", and not in the total.
        """
        both = images if strong is None else torch.cat((images, strong))
        output, size = self.model.low_res(self._normalised(both))  # logits (B or 2 B, K, h, w)
        loss = self._loss(_first(output, len(images)), size, masks)
        if labels is None:
            return loss
        height, width = images.shape[2:]

        def upsample(scores: Tensor) -> Tensor:
            return self.model.upsample(upcast(scores), size)[..., :height, :width]

        plain = partial(cross_entropy, target=labels, ignore_index=self.classes.ignore_index)
        extra = of_upsampled(plain, upsample, output.logits[len(images) :])
        return loss._replace(parts=loss.parts | {"unlabelled": extra})

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of images (B, C, H, W)."""
        return self.model.features(self._normalised(images))

    def losses_of_features(self, features: list[Tensor], masks: Tensor) -> Loss:
        """The losses of :meth:`losses`, without the backbone, of its feature maps."""
        size = self.model.padded((masks.shape[1], masks.shape[2]))
        return self._loss(self.model.decode(features), size, masks)

    def _loss(self, output: SegmenterOutput, size: tuple[int, int], masks: Tensor) -> Loss:
        height, width = masks.shape[1:]
        return segmentation_loss(
            output,
            masks,
            self.model.loss_weights,
            class_weights=self.class_weights,
            ohem=self.ohem,
            overlap=self.overlap,
            ignore_index=self.classes.ignore_index,
            upsample=lambda scores: self.model.upsample(upcast(scores), size)[..., :height, :width],
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch: images (B, C, H, W) or their cached features, masks (B, H, W).

        Beside them there may be views of unlabelled images, those of
        :class:`~scenewise.data.two_views.TwoViews`.
        """
        views = self._taught(batch) if "weak" in batch else ()
        try:
            if "features" in batch:
                loss = self.losses_cached(batch["features"], batch["mask"])
            else:
                loss = self.losses_of(batch["image"], batch["mask"], *views)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "a batch of one image is too small for batch normalisation after global pooling; "
                "set --data.batch_size to 2 or more"
            ) from error
        total = loss.total
        if views:
            weight = self.unlabelled_weight * ramp(self.trainer.global_step, self.ramp_steps)
            total = total + weight * loss.parts["unlabelled"]
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/loss_{name}": value for name, value in loss.parts.items()})
        self.log_dict(self._state())
        return total

    @torch.no_grad()
    def _taught(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Strong views (B, C, H, W) and the teacher's labels (B, H, W), with boxes of others."""
        if self.teacher is None:
            raise UserError(
                "images without labels need the average of the weights; train with scenewise.fit, "
                "or a Trainer of scenewise.build_trainer"
            )
        teacher, ignore = self.teacher(), self.classes.ignore_index
        images, known = self._normalised(batch["weak"]), batch["known"]
        labels = taught_labels(
            teacher, images, known, threshold=self.unlabelled_threshold, ignore_index=ignore
        )
        self.log("train/confident", (labels != ignore).sum() / known.sum().clamp(min=1))
        return cut_mix(batch["strong"], batch["box"]), cut_mix(labels, batch["box"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count the pixels of one batch."""
        self._count(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count the pixels of one batch."""
        self._count(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation set."""
        self._score("val")
        if self.trainer.state.fn == TrainerFn.FITTING and self.matrix is not None:
            step, epoch = self.trainer.global_step, self.trainer.current_epoch
            self.validated = {"epoch": epoch, "step": step, "matrix": self.matrix}

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test set."""
        self._score("test")

    def configure_optimizers(self) -> Any:
        """Optimiser over backbone and head, with the poly schedule over all steps."""
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError(
                "the learning rate decays over the whole training, so its length must be known; "
                "give --trainer.max_epochs or --trainer.max_steps"
            )
        optimizer = self._optimizer()
        if self.warmup is None:  # build_trainer has chosen it, unless the Trainer is the user's
            self.warmup = self.default_warmup(int(total))
        schedule = poly_schedule(
            optimizer, int(total), power=self.power, floor=self.floor, warmup=self.warmup
        )
        self.ramp_steps = round(_RAMP * total)
        self._options, self._configured_lr = group_options(optimizer), self.lr
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def default_warmup(self, total: int) -> int:
        """Warm-up steps of a training of ``total`` steps."""
        return min(500, round(self.warmup_share * total))

    def on_train_start(self) -> None:
        """Restore what a checkpoint has besides weights, and apply the rates that are given now."""
        self.refuse_frozen_random()
        if self.balance and self._balance_asked:  # by a Trainer that is not build_trainer's
            raise UserError(
                "class_weights 'auto' is chosen by scenewise.fit and the command; give numbers, "
                "see scenewise.training.balance"
            )
        restore_exact_state(self, self._restored)
        self._restored = {}
        schedules = self.lr_schedulers()
        if isinstance(schedules, LambdaLR):
            ratio = self.lr / self._configured_lr  # LearningRateFinder has changed it since
            options = [g | {"initial_lr": g["initial_lr"] * ratio} for g in self._options]
            restart_schedule(schedules, options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's configuration, the last scores, and what an exact resume needs."""
        checkpoint["scenewise"] = self.model.config()
        checkpoint["validated"] = self.validated
        done = self.trainer.fit_loop.batch_idx + 1
        halfway = done % self.trainer.accumulate_grad_batches != 0  # within an optimiser step
        checkpoint["resume"] = exact_state(self, gradients=halfway)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model."""
        self.trained = "all"
        self.validated = checkpoint.get("validated")
        self._restored = checkpoint.get("resume", {})
        if "state_dict" in checkpoint:  # else the sharded strategy has checked it
            saved = shapes_of(checkpoint["state_dict"])
            shapes = shapes_of(self.state_dict())
            refuse_other_model(checkpoint.get("scenewise"), saved, self.model, shapes)
        if "scenewise" in checkpoint:  # the range that it was trained with, whatever the data is
            preprocessing = checkpoint["scenewise"]["preprocessing"]
            self.model.preprocessing = Preprocessing.from_dict(preprocessing)

    def _check(self, compile_and_checkpoint: bool) -> None:
        if compile_and_checkpoint:
            raise UserError(
                "--model.compile cannot be used with --model.checkpoint_activations; leave one out"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UserError(
                f"--model.layer_decay is {self.layer_decay}; give a factor above 0, at most 1"
            )
        for name in ("lr", "head_multiplier", "gamma_rate"):
            if not 0 < getattr(self, name) < math.inf:  # NaN too
                raise UserError(f"--model.{name} is {getattr(self, name)}; give a number above 0")
        if not 0 < self.unlabelled_threshold <= 1:
            raise UserError(
                f"--model.unlabelled_threshold is {self.unlabelled_threshold}; give a probability "
                "above 0, at most 1"
            )
        if not 0 <= self.floor <= 1:
            raise UserError(f"--model.floor is {self.floor}; give a factor from 0 to 1")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--model.momentum is {self.momentum}; give 0 to below 1")
        if self.eval_window is not None and self.eval_window < 0:
            raise UserError(f"--model.eval_window is {self.eval_window}; give a side in pixels")
        for name in (
            "power",
            "weight_decay",
            "warmup",
            "unlabelled_weight",
        ):  # power 0: a constant rate
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UserError(f"--model.{name} is {getattr(self, name)}; give 0 or more")

    def refuse_frozen_random(self) -> None:
        """A part that is frozen needs weights from somewhere."""
        if self.frozen == "all-but-classifier" and self.trained != "all":
            raise UserError(
                "--model.freeze all-but-classifier would freeze a head of random weights; give a "
                "trained model with --start"
            )
        if self.frozen is not None and self.trained == "nothing":
            raise UserError(
                f"--model.freeze {self.frozen} would freeze a backbone of random weights; give "
                "--start or --model.backbone_weights"
            )

    def _optimizer(self) -> Optimizer:
        scaled = self._trainer is not None and str(self._trainer.precision) == "16-mixed"
        return build_optimizer(
            self.optimizer_name,
            self.model,
            lr=self.lr,
            head_multiplier=self.head_multiplier,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=not scaled,  # a fused step unscales gradients itself, so they cannot be clipped
            groups=parameter_groups(
                self.model,
                self.lr,
                self.head_multiplier,
                layer_decay=self.layer_decay,
                gamma_rate=self.gamma_rate,
                weight_decay=self.weight_decay,
            ),
        )

    def _state(self) -> dict[str, float | Tensor]:
        """Learning rates and the scale of every attention block, for the log."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, Optimizer)
        rates = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
        scales = {
            f"gamma/{name.removesuffix('.gamma')}": full_tensor(parameter.detach()).squeeze()
            for name, parameter in gammas(self.model).items()
        }
        return rates | scales

    def _normalised(self, images: Tensor) -> Tensor:
        """The network's input, in the precision and memory format of its weights."""
        normalised = self.model.normalize(images).to(next(self.model.parameters()).dtype)
        return normalised.contiguous(memory_format=torch.channels_last)

    def _count(self, batch: dict[str, Any], stage: str) -> None:
        images, masks = batch["image"], batch["mask"]
        predictor = self._predictor(images)
        if predictor is not None:
            confidence, self.labels = self._predicted(predictor, images)
            self.metrics.update(self.labels, masks, confidence)
            return
        logits = self.model(self._normalised(images)).logits  # (B, K, H, W)
        loss = cross_entropy(logits, masks, ignore_index=self.classes.ignore_index)
        self.log(f"{stage}/loss", loss, batch_size=len(logits), sync_dist=True)
        largest, labels = logits.max(1)  # (B, H, W) each
        self.labels = labels
        confidence = (largest - logits.logsumexp(1)).exp()  # softmax of the largest logit alone
        self.metrics.update(labels, masks, confidence)

    def labels_of(self, images: Tensor) -> Tensor:
        """Labels (B, H, W) of images (B, C, H, W), as they are scored."""
        predictor = self._predictor(images)
        if predictor is not None:
            return self._predicted(predictor, images)[1]
        labels: Tensor = self.model(self._normalised(images)).logits.argmax(1)
        return labels

    def probabilities_of(self, images: Tensor) -> Tensor:
        """Probabilities (B, K, H, W) of images (B, C, H, W), as they are scored."""
        predictor = self._predictor(images)
        if predictor is None:
            return upcast(self.model(self._normalised(images)).logits).softmax(1)
        return torch.stack([predictor.scores(image) for image in self._in_channels(images)])

    def _in_channels(self, images: Tensor) -> list[Tensor]:
        """Each image (C, H, W) as a Predictor takes it; a grey one in all channels of the model."""
        if images.shape[1] == 1:
            images = images.expand(-1, self.model.preprocessing.in_channels, -1, -1)
        return [image.as_subclass(Tensor) for image in images]

    def _predicted(self, predictor: Predictor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence and labels, (B, H, W) each."""
        both = [predictor.scores(image).max(0) for image in self._in_channels(images)]
        confidence, labels = (torch.stack(part) for part in zip(*both, strict=True))
        return confidence, labels

    def _predictor(self, images: Tensor) -> Predictor | None:
        """The predictor of a protocol or quality, or of windows where images are larger."""
        if self.protocol is not None:
            return Predictor.from_protocol(self.model, self.protocol)
        if self.quality not in (None, "fast"):
            window = self.eval_window or None
            return quality_predictor(self.model, self.quality, window=window, fast=False)
        if self.eval_window and max(images.shape[-2:]) > self.eval_window:
            return Predictor(self.model, window=self.eval_window, fast=False)
        return None

    def _score(self, stage: str) -> None:
        self.matrix, self.scores = self.metrics.matrix(), self.metrics.compute()
        self.metrics.reset()
        self.labels = None
        for name, value in self.scores.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "miou", sync_dist=True)


def _first(output: SegmenterOutput, count: int) -> SegmenterOutput:
    """The logits of the first ``count`` images, the main and the auxiliary ones."""
    auxiliary = {name: logits[:count] for name, logits in output.auxiliary.items()}
    return output._replace(logits=output.logits[:count], auxiliary=auxiliary)


def _overlap(loss: str) -> OverlapLoss | None:
    """The loss of overlap that is added to the cross-entropy.

    Raises:
        UserError: it is unknown.
    """
    known: dict[str, OverlapLoss | None] = {
        "cross_entropy": None,
        "cross_entropy+dice": dice_loss,
        "cross_entropy+lovasz": lovasz_softmax,
    }
    if loss not in known:
        raise UserError(f"unknown loss '{loss}'; {choose(loss, known)}")
    return known[loss]


def _factors(values: list[float] | None, classes: Classes) -> Tensor | None:
    if values is None:
        return None
    if len(values) != len(classes):
        raise UserError(
            f"--model.class_weights has {len(values)} numbers for {len(classes)} classes; give one "
            "for each class"
        )
    if not all(0 <= value < math.inf for value in values) or sum(values) == 0:
        raise UserError(
            f"--model.class_weights is {values}; give numbers of 0 or more, not all of them 0"
        )
    return torch.tensor(values)
