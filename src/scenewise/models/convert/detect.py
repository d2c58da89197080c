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


def recognise(source: Source, given: str | None = None) -> str:
    """The name of the family in FAMILIES.

    Raises:
        UserError: ``given`` is no family, or no family has such names.
    """
    if given is not None:
        if given not in FAMILIES:
            raise UserError(f"no family '{given}'; there are {', '.join(FAMILIES)}")
        return given
    for name, family in FAMILIES.items():
        if family.matches(source.tensors):
            return name
    if source.has("backbone.net."):
        raise UserError(
            f"'{source.name}' belongs to a model of Scenewise, which has a config.json beside it; "
            "give the folder"
        )
    first = ", ".join(list(source.tensors)[:3])
    raise UserError(
        f"'{source.name}' is of no family that is known here (its first tensors are {first}); "
        f"known are {', '.join(FAMILIES)}, and bare backbones as backbone_weights"
    )
