"""Replace the generated parts of documents, which are between two marks."""

from pathlib import Path

from scenewise.files import write_text


def replace_marked(document: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- /name -->`` in ``document``."""
    start, stop = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(start)
    _, mark, after = rest.partition(stop)
    if not mark:
        raise SystemExit(f"{document} lacks the marks {start} and {stop}")
    write_text(document, f"{before}{start}\n{text}\n{stop}{after}")
