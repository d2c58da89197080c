"""Small exports of labelling tools, all of the same two images and the same two classes."""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
NAMES = ("street one", "p.2")  # a space, and a dot that is no suffix
BOX = (4, 3, 12, 9)  # x, y, width, height of class box
HOLE = (20, 5, 8, 10)  # of class ring, whose pixels in the middle are background again
INNER = (22, 8, 3, 4)


def truth(second: bool = False) -> np.ndarray:
    """Ids of background, box, ring; the second image has the box alone."""
    ids = np.zeros(SIZE, np.uint8)
    ids[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = 1
    if not second:
        ids[HOLE[1] : HOLE[1] + HOLE[3], HOLE[0] : HOLE[0] + HOLE[2]] = 2
        ids[INNER[1] : INNER[1] + INNER[3], INNER[0] : INNER[0] + INNER[2]] = 0
    return ids


def write_images(
    folder: Path, names: tuple[str, ...] = NAMES, suffix: str = ".jpg", blue: int = 20
) -> None:
    """Images that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.new("RGB", SIZE[::-1], (40 * k, 90, blue)).save(folder / f"{name}{suffix}")


def write_mask(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def ring(box: tuple[int, int, int, int]) -> list[int]:
    """The corners of a box, x and y in turn."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def keyhole() -> list[int]:
    """The ring as one polygon, whose hole is joined to the outline by a line."""
    outer, inner = ring(HOLE), ring(INNER)
    return [*outer, *outer[:2], *inner[:2], *inner[6:], *inner[4:6], *inner[2:4], *inner[:2]]


def pairs(values: list[int]) -> list[list[int]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def coco(root: Path) -> None:
    """Polygons, uncompressed run lengths and a crowd, in ``train/_annotations.coco.json``."""
    write_images(root / "train")
    columns = (truth() == 2).T.ravel()
    changes = np.flatnonzero(np.diff(columns, prepend=False))
    runs = np.diff([0, *changes, columns.size]).tolist()
    box = {"category_id": 7, "segmentation": [ring(BOX)], "iscrowd": 0, "area": 1}
    annotations = [
        # a large region that the small ones are drawn upon
        {"id": 1, "image_id": 5, **box},
        {
            "id": 2,
            "image_id": 5,
            "category_id": 9,
            "iscrowd": 1,
            "segmentation": {"size": list(SIZE), "counts": runs},
        },
        {"id": 3, "image_id": 6, **box},
        # covered whole by a larger one that comes later
        {"id": 4, "image_id": 6, **box | {"category_id": 9, "segmentation": [ring((2, 1, 1, 1))]}},
        {"id": 5, "image_id": 6, **box | {"segmentation": [ring((0, 0, 3, 3))]}},
    ]
    images = [
        {"id": 5 + k, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for k, name in enumerate(NAMES)
    ]
    categories = [{"id": 7, "name": "box"}, {"id": 9, "name": "ring"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(root / "train" / "_annotations.coco.json", content)


def yolo(root: Path) -> None:
    for split, name in zip(("train", "val"), NAMES, strict=True):
        write_images(root / "images" / split, (name,))
        shapes = [(0, ring(BOX)), *([(1, keyhole())] if split == "train" else [])]
        lines = [
            " ".join([str(k), *(f"{v / SIZE[1 - i % 2]:.6f}" for i, v in enumerate(shape))])
            for k, shape in shapes
        ]
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    config = "path: /elsewhere\ntrain: ../images/train\nval: images/val\nnames: [box, ring]\n"
    (root / "data.yaml").write_text(config)


def labelme(root: Path) -> None:
    write_images(root / "shots")
    hole = {"label": "_background_", "points": pairs(ring(INNER)), "shape_type": "polygon"}
    box = [[BOX[0] + BOX[2], BOX[1]], [BOX[0], BOX[1] + BOX[3]]]  # corners in any order
    png = io.BytesIO()
    Image.new("1", HOLE[2:], 1).save(png, "PNG")
    corners = [[HOLE[0], HOLE[1]], [HOLE[0] + HOLE[2] - 1, HOLE[1] + HOLE[3] - 1]]
    mask = base64.b64encode(png.getvalue()).decode()
    for k, name in enumerate(NAMES):
        shapes = [{"label": "box", "points": box, "shape_type": "rectangle"}]
        if k == 0:
            filled = {"label": "ring", "points": corners, "shape_type": "mask", "mask": mask}
            shapes += [filled, hole]
        about = {"imageHeight": SIZE[0], "imageWidth": SIZE[1], "imageData": None}
        path = {"imagePath": f"..\\shots\\{name}.jpg"}
        write_json(root / "json" / f"{name}.json", {"shapes": shapes, **about, **path})


def labelme_voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    for k, name in enumerate(NAMES):
        write_mask(root / "SegmentationClass" / f"{name}.png", truth(k == 1))
    (root / "class_names.txt").write_text("_background_\nbox\nring\n")


def cvat(root: Path) -> None:
    write_images(root / "images" / "Train", NAMES[:1])
    write_images(root / "images" / "Validation", NAMES[1:])
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>any</type></label>"
        for name, color in (("box", "#0a1400"), ("ring", "#00c800"))
    )
    xtl, ytl, width, height = BOX
    box = f'<box label="box" xtl="{xtl}" ytl="{ytl}" xbr="{xtl + width}" ybr="{ytl + height}"'
    points = ";".join(f"{x},{y}" for x, y in pairs(keyhole()))
    shapes = [
        # drawn first, as its z_order says, and covered by the box
        f'{box} z_order="2" occluded="0"/>'
        f'<mask label="ring" rle="0, 4" left="5" top="4" width="2" height="2" z_order="0"/>'
        f'<polygon label="ring" points="{points}" z_order="0"/><tag label="box"/>',
        f'{box} z_order="0"/>',
    ]
    images = "".join(
        f'<image id="{k}" name="{name}.jpg" subset="{subset}" width="32" height="24">'
        f"{shape}</image>"
        for k, (name, subset, shape) in enumerate(
            zip(NAMES, ("Train", "Validation"), shapes, strict=True)
        )
    )
    meta = f"<meta><project><labels>{labels}</labels></project></meta>"
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{images}</annotations>'
    (root / "annotations.xml").write_text(xml)


def cvat_masks(root: Path) -> None:
    colors = np.array([(0, 0, 0), (10, 20, 0), (0, 200, 0)], np.uint8)
    write_images(root / "JPEGImages", suffix=".png")
    for k, name in enumerate(NAMES):
        write_mask(root / "SegmentationClass" / f"{name}.png", colors[truth(k == 1)])
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbox:10,20,0::\nring:0,200,0::\n"
    )
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("\n".join(NAMES) + "\n")


def labelstudio(root: Path) -> None:
    from scenewise.data.formats.label_studio import encode_brush  # tested against bits by hand

    write_images(root / "images", tuple(f"0a1b2c3{k}-{name}" for k, name in enumerate(NAMES)))
    share = (100 / SIZE[1], 100 / SIZE[0])
    x, y, width, height = BOX
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    box = {
        "type": "rectanglelabels",
        "value": {
            "x": x * share[0],
            "y": y * share[1],
            "width": width * share[0],
            "height": height * share[1],
            "rotation": 0,
            "rectanglelabels": ["box"],
        },
        **size,
    }
    brush = {"rle": encode_brush(truth() == 2), "format": "rle", "brushlabels": ["ring"]}
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    results = [[box, {"type": "brushlabels", "value": brush, **size}, choice], [box]]
    tasks: list[dict[str, object]] = [
        {
            "id": 40 + k,
            "data": {"image": f"/data/upload/1/0a1b2c3{k}-{name}.jpg"},
            "annotations": [{"result": [], "was_cancelled": True}, {"result": result}],
        }
        for k, (name, result) in enumerate(zip(NAMES, results, strict=True))
    ]
    tasks.append({"id": 50, "data": {"image": "/data/upload/1/other.jpg"}, "annotations": []})
    write_json(root / "project-1.json", tasks)


def supervisely(root: Path) -> None:
    png = io.BytesIO()
    ids = truth()[HOLE[1] : HOLE[1] + HOLE[3], HOLE[0] : HOLE[0] + HOLE[2]] == 2
    bitmap = Image.fromarray(ids.astype(np.uint8))
    bitmap.putpalette([0, 0, 0, 255, 255, 255])
    bitmap.save(png, "PNG", transparency=0)
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    box = {
        "classTitle": "box",
        "geometryType": "polygon",
        "points": {"exterior": pairs(ring(BOX)), "interior": []},
    }
    drawn = {
        "classTitle": "ring",
        "geometryType": "bitmap",
        "bitmap": {"data": data, "origin": [HOLE[0], HOLE[1]]},
    }
    for k, (part, name) in enumerate(zip(("train", "val"), NAMES, strict=True)):
        write_images(root / part / "img", (name,))
        size = {"height": SIZE[0], "width": SIZE[1]}
        content = {"size": size, "objects": [box, *([drawn] if k == 0 else [])], "tags": []}
        write_json(root / part / "ann" / f"{name}.jpg.json", content)
    classes = [{"title": "box", "color": "#0A1400"}, {"title": "ring", "color": "#00C800"}]
    write_json(root / "meta.json", {"classes": classes, "tags": []})


def supervisely_masks(root: Path) -> None:
    supervisely(root)
    write_json(
        root / "obj_class_to_machine_color.json", {"ring": [20, 20, 20], "box": [10, 10, 10]}
    )
    values = np.array([0, 10, 20], np.uint8)
    for k, (part, name) in enumerate(zip(("train", "val"), NAMES, strict=True)):
        grey = values[truth(k == 1)]
        image = grey if k == 0 else np.stack([grey] * 3, axis=-1)
        write_mask(root / part / "masks_machine" / f"{name}.png", image)


def via(root: Path) -> None:
    write_images(root / "train")
    x, y, width, height = BOX
    rect = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
    corners = keyhole()
    polygon = {"name": "polygon", "all_points_x": corners[::2], "all_points_y": corners[1::2]}
    box = {"shape_attributes": rect, "region_attributes": {"class": "box", "note": "x"}}
    hole = {"shape_attributes": polygon, "region_attributes": {"class": {"ring": True}}}
    first = {"filename": f"{NAMES[0]}.jpg", "size": 1, "regions": {"0": box, "1": hole}}
    second = {"filename": f"{NAMES[1]}.jpg", "size": 1, "regions": [box]}
    write_json(root / "train" / "via_region_data.json", {"a1": first, "b2": second})


def ultralytics(root: Path) -> None:
    for k, (split, name) in enumerate(zip(("train", "val"), NAMES, strict=True)):
        write_images(root / "images" / split, (name,))
        write_mask(root / "classes" / split / f"{name}.png", truth(k == 1))
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nmasks_dir: classes\n"
        "names: {0: background, 1: box, 2: ring}\n"
    )


def matlab_labels(root: Path) -> None:
    """IDs 3 and 7; 0 is undefined. A third class is nowhere, so that background has an ID."""
    write_images(root / "photos")
    values = np.array([9, 3, 7], np.uint8)
    for k, name in enumerate(NAMES):
        mask = values[truth(k == 1)]
        mask[-1] = 0
        write_mask(root / "gTruth" / "PixelLabelData" / f"Label_{k + 1}_{name}.png", mask)
    write_json(root / "classes.json", {"9": "background", "7": "ring", "3": "box"})


def segments_ai(root: Path) -> None:
    """Instances 7 and 300 are of the categories with the ids 0 and 4."""
    categories = [{"name": "ring", "id": 4}, {"name": "box", "id": 0}]
    samples = []
    for k, name in enumerate(NAMES):
        write_images(root / "files", (name,))
        instances = np.array([0, 7, 300])[truth(k == 1)]
        split = [instances % 256, instances // 256, 0 * instances, 255 + 0 * instances]
        bitmap = np.stack(split, axis=-1).astype(np.uint8)
        write_mask(root / "files" / f"{name}_label_ground-truth.png", bitmap)
        write_mask(root / "files" / f"{name}_label_ground-truth_semantic.png", truth(k == 1))
        annotations = [{"id": 7, "category_id": 0}, {"id": 300, "category_id": 4}]
        labels = {"ground-truth": {"attributes": {"annotations": annotations}}}
        samples.append({"name": f"{name}.jpg", "labels": labels})
    dataset = {"task_attributes": {"categories": categories}, "samples": samples}
    write_json(root / "release.json", {"name": "v1", "dataset": dataset, "samples": samples})


def roboflow(root: Path) -> None:
    for k, (split, name) in enumerate(zip(("train", "valid"), NAMES, strict=True)):
        called = f"{name}_jpg.rf.{k}0a1b"
        write_images(root / split, (called,))
        write_mask(root / split / f"{called}_mask.png", truth(k == 1))
        csv = "Pixel Value, Class\n0, background\n1, box\n2, ring\n"
        (root / split / "_classes.csv").write_text(csv)


def mmsegmentation(root: Path) -> None:
    for k, (split, name) in enumerate(zip(("train", "val"), NAMES, strict=True)):
        write_images(root / "img_dir" / split, (name,))
        write_mask(root / "ann_dir" / split / f"{name}.png", truth(k == 1))
    write_json(root / "classes.json", ["background", "box", "ring"])


def paddleseg(root: Path) -> None:
    """List files of two columns; in PaddleSeg's own layout no name has a space."""
    for k, (split, name) in enumerate(zip(("train", "val"), NAMES, strict=True)):
        called = name.replace(" ", "_")
        write_images(root / "images", (called,))
        write_mask(root / "labels" / f"{called}.png", truth(k == 1))
        (root / f"{split}.txt").write_text(f"images/{called}.jpg labels/{called}.png\n")
    (root / "labels.txt").write_text("background\nbox\nring\n")


# Masks that the format "folder" reads.
FOLDER_TREES = {
    "roboflow": roboflow,
    "mmsegmentation": mmsegmentation,
    "paddleseg": paddleseg,
}
# What writes the export, by the format that reads it.
TREES = {
    "coco": coco,
    "cvat": cvat,
    "cvat_masks": cvat_masks,
    "labelme": labelme,
    "labelme_voc": labelme_voc,
    "labelstudio": labelstudio,
    "segments_ai": segments_ai,
    "supervisely": supervisely,
    "supervisely_masks": supervisely_masks,
    "ultralytics": ultralytics,
    "via": via,
    "yolo": yolo,
}
