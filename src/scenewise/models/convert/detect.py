"""Which project a checkpoint comes from, by the names of its tensors."""

from scenewise.errors import UserError, choose
from scenewise.models.convert import (
    from_ccnet,
    from_danet,
    from_emanet,
    from_mmseg,
    from_ocnet,
    from_openseg,
    from_semseg,
    from_torchvision,
)
from scenewise.models.convert.refusals import bare_backbone, refusal
from scenewise.models.convert.spec import Family, Source
from scenewise.models.state_dict import shared_prefix

FAMILIES: dict[str, Family] = {
    **from_danet.FAMILIES,
    **from_mmseg.FAMILIES,
    **from_torchvision.FAMILIES,
    **from_ccnet.FAMILIES,
    **from_emanet.FAMILIES,
    **from_ocnet.FAMILIES,
    **from_semseg.FAMILIES,
    **from_openseg.FAMILIES,
}


def recognise(source: Source, family: str | None = None, removed: str = "") -> tuple[str, str]:
    """The name of the family in FAMILIES, and a prefix of all names to remove first.

    Args:
        source: the checkpoint.
        family: the name, if it is known.
        removed: the prefix that the file's names had.

    Raises:
        UserError: ``family`` is unknown, no family has such names, or they are of a network
            that this project does not have.
    """
    if family is not None:
        if family not in FAMILIES:
            raise UserError(f"unknown family '{family}'; {choose(family, FAMILIES)}")
        return family, ""
    reason = refusal(source.tensors, [removed + key for key in source.tensors])
    if reason is not None:
        raise UserError(f"'{source.name}' {reason}")
    prefix, tensors = "", source.tensors
    while tensors:
        for name, candidate in FAMILIES.items():
            if candidate.matches(tensors):
                return name, prefix
        shared = shared_prefix(tensors)  # an attribute of a training code, such as "danet."
        prefix += shared
        tensors = {k.removeprefix(shared): v for k, v in tensors.items() if k.startswith(shared)}
        tensors = tensors if shared else {}
    if source.has("backbone.net."):  # timm's network inside Backbone
        raise UserError(
            f"'{source.name}' belongs to a Scenewise model with a config.json; give the folder"
        )
    reason = bare_backbone(source.tensors)
    if reason is not None:
        raise UserError(f"'{source.name}' {reason}")
    first = ", ".join(list(source.tensors)[:3])  # usually enough to see whose file it is
    raise UserError(
        f"'{source.name}' is of an unknown family (its first tensors are {first}); "
        f"known are {', '.join(FAMILIES)}, and bare backbones as backbone_weights"
    )
