"""Which project a checkpoint comes from, by the names of its tensors."""

from scenewise.errors import UserError
from scenewise.models.convert import (
    from_ccnet,
    from_danet,
    from_mmseg,
    from_openseg,
    from_semseg,
    from_torchvision,
)
from scenewise.models.convert.spec import Family, Source

FAMILIES: dict[str, Family] = {
    **from_danet.FAMILIES,
    **from_mmseg.FAMILIES,
    **from_torchvision.FAMILIES,
    **from_ccnet.FAMILIES,
    **from_semseg.FAMILIES,
    **from_openseg.FAMILIES,
}


def recognise(source: Source, family: str | None = None) -> str:
    """The name of the family in FAMILIES.

    Raises:
        UserError: ``family`` is unknown, or no family has such names.
    """
    if family is not None:
        if family not in FAMILIES:
            raise UserError(f"unknown family '{family}'; choose one of {', '.join(FAMILIES)}")
        return family
    for name, candidate in FAMILIES.items():
        if candidate.matches(source.tensors):
            return name
    if source.has("backbone.net."):  # timm's network inside Backbone
        raise UserError(
            f"'{source.name}' belongs to a Scenewise model with a config.json; give the folder"
        )
    first = ", ".join(list(source.tensors)[:3])  # usually enough to see whose file it is
    raise UserError(
        f"'{source.name}' is of an unknown family (its first tensors are {first}); "
        f"known are {', '.join(FAMILIES)}, and bare backbones as backbone_weights"
    )
