"""Correcting checksums, so that changed bytes reach the parsers."""

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"


def with_png_checksums(data: bytes) -> bytes:
    """The PNG with the CRC of every chunk corrected; other files unchanged.

    >>> with_png_checksums(PNG + bytes(4) + b"IEND" + b"bad!")[-4:].hex()
    'ae426082'
    """
    if not data.startswith(PNG):
        return data
    parts, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length  # length, name, body, CRC
    return b"".join(parts)


def with_tar_checksums(data: bytes) -> bytes:
    """The tar file with the checksum of every header corrected."""
    out, at = bytearray(data), 0
    while at + 512 <= len(out):
        header = out[at : at + 512]
        if not any(header):
            break
        header[148:156] = b" " * 8  # the sum counts its own field as spaces
        out[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        size = header[124:136].strip(b"\0 ")
        length = int(size, 8) if size.isdigit() and not set(size) & set(b"89") else 0
        at += 512 * (1 + (length + 511) // 512)
    return bytes(out)
