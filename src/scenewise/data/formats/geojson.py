"""GeoJSON in pixels: the regions of a label map as polygons with holes, without coordinates."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenewise.classes import Classes
from scenewise.data.formats.outlines import regions


def pixel_geojson(
    ids: NDArray[np.integer],
    classes: Classes,
    confidence: NDArray[np.floating] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Class ids (H, W) as a GeoJSON collection: a polygon for each connected region of a class.

    Coordinates are pixels: (0, 0) is the top left corner of the first pixel, x grows to the right
    and y down, so a polygon runs along the edges of its pixels. They have no coordinate reference
    system; software for maps takes them for longitude and latitude, as RFC 7946 says. Together the
    polygons cover each pixel that is not ignored once.

    Args:
        ids: of ``classes``; ignored ids get no polygon.
        classes: their names.
        confidence: (H, W), the probability of the class of each pixel, if known.
        name: of the collection.

    Returns:
        Features with ``class_id``, ``class``, ``area`` in pixels, ``share`` of the pixels of the
        image, and with ``confidence`` its mean in the polygon. The collection has ``width`` and
        ``height``, and ``name``.

    >>> found = pixel_geojson(np.array([[1, 1, 0]]), Classes.numbered(2))
    >>> found["features"][1]["properties"]
    {'class_id': 1, 'class': 'class_1', 'area': 2, 'share': 0.666667}
    >>> found["features"][1]["geometry"]["coordinates"]
    [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]
    """
    height, width = ids.shape
    features = []
    for k, label in enumerate(classes.names):
        for region in regions(ids == k, confidence) if k != classes.ignore_index else ():
            share = round(region.pixels / ids.size, 6)
            properties = {"class_id": k, "class": label, "area": region.pixels, "share": share}
            if confidence is not None:
                properties["confidence"] = round(region.mean, 6)
            closed = [[[x, y] for x, y in (*ring, ring[0])] for ring in region.rings]
            geometry = {"type": "Polygon", "coordinates": closed}
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    about = {"width": width, "height": height} | ({} if name is None else {"name": name})
    return {"type": "FeatureCollection", **about, "features": features}
