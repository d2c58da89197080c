"""``scenewise convert``: public checkpoints into models, and back."""

import argparse
from typing import Any

from scenewise.errors import UserError
from scenewise.models.checkpoints import load_model
from scenewise.models.convert.key_mapping import Plan, fill, first_keys, format_setting, make_plan
from scenewise.models.convert.spec import Options
from scenewise.models.convert.to_external import save_external
from scenewise.models.preprocessing import Preprocessing


def run(args: argparse.Namespace) -> None:
    """Convert, print the plan, or write back."""
    if args.out is None and not args.dry_run:
        raise UserError("nowhere to write to; give OUT, or --dry-run")
    options = Options(
        args.family,
        None if args.multi_grid is None else tuple(args.multi_grid),
        args.recurrence,
        args.align_corners,
        args.output_stride,
        args.threshold,
        args.ema,
    )
    if args.to is not None:
        _write_back(args, options)
        return
    plan = make_plan(args.file, options)
    print(_summary(plan))
    if args.dry_run:
        print(*_mapping_lines(plan), sep="\n")
        return
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"'{args.out}' is a file; give a folder to write to")
    fill(plan).save_pretrained(args.out)
    print(f"written: {args.out}")


def _summary(plan: Plan) -> str:
    """Network, classes, preprocessing and number of tensors, one a line."""
    design, found = plan.design, plan.found
    settings = {"backbone": design.backbone, "variant": design.variant, **design.arguments}
    names = design.classes.names
    images = design.preprocessing
    lines = {
        "file": f"{plan.file.name} (sha256 {plan.sha256})",
        "family": plan.family,
        "network": design.network
        + "".join(f", {k} {format_setting(v)}" for k, v in settings.items()),
        "classes": f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
        "images": f"{images.channel_order}, 0 to {images.value_range:g}, mean "
        f"{format_setting(images.mean)}, std {format_setting(images.std)}",
        "tensors": f"{plan.placed} loaded, {len(plan.left_out)} left out"
        + (f", from '{found.place}'" if found.place else "")
        + (f", prefix '{found.prefix}' removed" if found.prefix else ""),
    }
    reasons = dict.fromkeys(plan.left_out.values())
    skipped = [
        f"  {why}: {first_keys([key for key, reason in plan.left_out.items() if reason == why])}"
        for why in reasons
    ]
    decided = [
        f"  {name} {_shown(setting.value)} ({setting.origin})"
        for name, setting in design.settings.items()
    ]
    head = [f"{name:9}{text}" for name, text in lines.items()]
    return "\n".join([*head, *(["left out", *skipped] if skipped else []), "settings", *decided])


def _shown(value: Any) -> str:
    if isinstance(value, Preprocessing):
        return "as in the line 'images'"
    return format_setting(value)


def _mapping_lines(plan: Plan) -> list[str]:
    """A line for each tensor of the file."""
    width = max(map(len, plan.key_mapping))
    return [
        f"{key:{width}}  ->  {target or '(left out)'}" for key, target in plan.key_mapping.items()
    ]


def _write_back(args: argparse.Namespace, options: Options) -> None:
    if args.dry_run or options.given():
        raise UserError("--to writes a model unchanged; leave the other options out")
    save_external(load_model(args.file), args.to, args.out)
    print(f"written: {args.out}")
