"""Small valid files from which the fuzzer starts."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from functools import cache

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from scenewise.classes import Classes
from scenewise.models import create_model

IDS = np.arange(35, dtype=np.uint8).reshape(5, 7)


def images() -> list[bytes]:
    """An image of 5 x 7 pixels in all usual file types and modes."""
    kinds = [(mode, "PNG") for mode in ("L", "P", "1", "RGB", "RGBA", "LA", "I;16")]
    kinds += [("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "TIFF"), ("RGB", "TIFF"), ("RGB", "BMP")]
    kinds += [("P", "BMP"), ("RGB", "WEBP"), ("P", "GIF")]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for mode, kind in kinds:
        image = Image.fromarray(IDS)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        turned = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
        for options in ({}, turned):
            buffer = io.BytesIO()
            image.save(buffer, format=kind, **options)
            files.append(buffer.getvalue())
    return files


def element(kind: int, content: bytes) -> bytes:
    """A tagged element of a MATLAB file."""
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, kind: int, dims: tuple[int, int], *held: bytes) -> bytes:
    """A MATLAB matrix: flags, dimensions, name, and content."""
    flags, sizes = struct.pack("<II", kind, 0), struct.pack("<ii", *dims)
    parts = (element(6, flags), element(5, sizes), element(1, name.encode()), *held)
    return element(14, b"".join(parts))


def matlab() -> list[bytes]:
    """Ids as in published files: plain, in a cell, in a struct, compressed."""
    start = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    ids = element(2, IDS.T.tobytes())
    plain = matrix("S", 9, IDS.shape, ids)
    cell = matrix("LabelMap", 1, (1, 1), matrix("", 9, IDS.shape, ids))
    names = element(5, struct.pack("<i", 32)) + element(1, b"Segmentation".ljust(32, b"\0"))
    fields = matrix("GTcls", 2, (1, 1), names, matrix("", 9, IDS.shape, ids))
    packed = zlib.compress(plain)
    files = [start + plain, start + cell, start + fields, start + plain + cell + fields]
    return [*files, start + struct.pack("<II", 15, len(packed)) + packed]


@cache
def weights() -> bytes:
    """The weights of a tiny network of 2 classes."""
    torch.manual_seed(0)
    content: bytes = save(create_model("fcn", num_classes=2, backbone="tiny").state_dict())
    return content


def tensors() -> list[bytes]:
    """A small safetensors file with three types."""
    types = {"a": torch.float32, "b": torch.uint8, "c": torch.bfloat16}
    return [save({name: torch.ones(2, 3, dtype=kind) for name, kind in types.items()})]


def configs() -> list[bytes]:
    """Configurations of that network, and of one with several contexts."""
    models = [
        create_model("fcn", num_classes=2, backbone="tiny"),
        create_model("chain", num_classes=2, backbone="tiny", contexts=["cbam"]),
    ]
    return [json.dumps(model.config()).encode() for model in models]


def checkpoints() -> list[bytes]:
    """Files of ``torch.save``, in the new and the old format."""
    content = {"state_dict": {"module.a": torch.ones(3), "b": torch.zeros(2, 2)}, "epoch": 3}
    files = []
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        files.append(buffer.getvalue())
    return files


def pickles() -> list[bytes]:
    """The pickle in such a file, and a plain one."""
    with zipfile.ZipFile(io.BytesIO(checkpoints()[0])) as inside:
        name = next(name for name in inside.namelist() if name.endswith("data.pkl"))
        return [inside.read(name), pickle.dumps({"a": [1, 2.0, "x", (None, True)]}, protocol=2)]


def archive(content: bytes) -> bytes:
    """A file of ``torch.save`` with this pickle, and the bytes of two tensors."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("x/data.pkl", content)
        out.writestr("x/byteorder", "little")
        for key in ("0", "1"):
            out.writestr(f"x/data/{key}", bytes(12 + 4 * int(key)))
        out.writestr("x/version", "3\n")
    return buffer.getvalue()


def indices() -> list[bytes]:
    """An index of shards."""
    splits = {"train": {"train-0.tar": ["a", "b"]}, "val": {"val-0.tar": ["c"]}}
    return [json.dumps({"classes": Classes.numbered(2).to_dict(), "splits": splits}).encode()]


def shards() -> list[bytes]:
    """Shards of two images, in three tar formats."""
    files = []
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=dialect, bufsize=512) as tar:
            for name in ("0.png", "0.mask.png", "1.png", "1.mask.png"):
                member = tarfile.TarInfo(name)
                member.size = 70
                member.pax_headers = {"comment": "x"}
                tar.addfile(member, io.BytesIO(images()[0][:70].ljust(70)))
        files.append(buffer.getvalue()[: 512 * 18])
    return files


def annotations() -> list[bytes]:
    """PASCAL in Detail's file, with one image."""
    image = {"image_id": 1, "file_name": "a.jpg", "phase": "train", "height": 2, "width": 3}
    masks = [
        {"image_id": 1, "category_id": 2, "segmentation": {"counts": counts}}
        for counts in ([1, 2, 3], "123")
    ]
    files = [{"images": [image], "annos_segmentation": masks[:n]} for n in (1, 2)]
    return [json.dumps(content).encode() for content in files]
