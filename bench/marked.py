"""Generated parts of documents, between two marks that stay."""

from pathlib import Path

from scenewise.files import write_text


def replace_marked(document: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->`` in ``document``."""
    start, stop = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(stop)
    if not found:
        raise SystemExit(f"{document} has no marks {start} and {stop}")
    write_text(document, f"{before}{start}\n{text}\n{stop}{after}")
