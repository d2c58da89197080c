"""semseg's PSPNet and PSANet (hszhao/semseg), the authors' PyTorch code."""

import math
from typing import Any

from scenewise.classes import likely_classes
from scenewise.errors import UserError
from scenewise.models.convert.spec import (
    RGB_255,
    Design,
    Family,
    Options,
    Source,
    arguments,
    find_backbone,
    settle,
)

_CLASSIFIERS = {
    "cls": "head.context.bottleneck",
    "cls.4": "head.classify.1",
    "aux": "auxiliary_head.reduce",
    "aux.4": "auxiliary_head.classify.1",
}
_BLOCK = "head.context.join.branch"  # of ConcatInput
_PSPNET = {"ppm.features": "head.context.pool.branches", **_CLASSIFIERS}
_PSANET = {
    **{
        f"psa.{source}": f"{_BLOCK}.{target}"
        for name, branch in {"": "collect", "_p": "distribute"}.items()
        for source, target in {
            f"reduce{name}": branch,
            f"attention{name}": f"{branch}_masks.0",
            f"attention{name}.3": f"{branch}_masks.1",
        }.items()
    },
    "psa.proj": f"{_BLOCK}.out",
    **_CLASSIFIERS,
}


def _design(source: Source, options: Options) -> Design:
    """PSPNet or PSANet. The code takes sides of 8 k + 1 pixels only; any size works here."""
    backbone, mapping = find_backbone(source, "")
    psanet = source.has("psa.")
    own: dict[str, Any] = {"size": _mask_size(source)} if psanet else {"bins": (1, 2, 3, 6)}
    settings = settle(options, multi_grid=(), align_corners=True, output_stride=8, **own)
    if psanet:  # the mask's side, which a tensor shows
        settings["size"] = settings["size"]._replace(origin="tensors in the file")
    return Design(
        "psanet" if psanet else "pspnet",
        "official",
        backbone,
        mapping | (_PSANET if psanet else _PSPNET),
        likely_classes(source.rows("cls.4.weight")),
        RGB_255,
        {**arguments(settings), "auxiliary": source.has("aux.")},
        settings=settings,
    )


def _mask_size(source: Source) -> tuple[int, int]:
    """The largest feature map of a PSANet, from the offsets that its masks cover.

    Both branches, the halved resolution and the softmax are the published settings.
    """
    masks = source.tensors.get("psa.attention.3.weight")
    offsets = masks.shape[0] if masks is not None and masks.ndim else 0
    side = math.isqrt(offsets)
    if not source.has("psa.reduce_p.") or side * side != offsets or side % 2 == 0:
        raise UserError(
            f"'{source.name}' is a PSANet without both branches or with masks that are not square, "
            "which is not supported; the published ones have both (psa_type 2)"
        )
    return side, side


_KEYS = ("ppm.features.0.1.weight", "psa.proj.0.weight")
FAMILIES = {
    "semseg": Family(
        "a PSPNet or PSANet of semseg", lambda keys: any(key in keys for key in _KEYS), _design
    )
}
