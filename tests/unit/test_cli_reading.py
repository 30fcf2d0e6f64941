"""From files to batches of documents."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import docstrings
from services.cli.ingest.batch import batches
from services.cli.ingest.items import FileEnd, Item, ReadDocument, Remark, SourceFile, Verdict
from services.cli.ingest.read import Reader
from services.cli.ingest.walk import Walk
from shared.domain import DocumentId, DocumentInput


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(path: Path, content: bytes | str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _names(walk: Walk) -> list[str]:
    return [item.name for item in walk if isinstance(item, SourceFile)]


def _documents(items: Iterator[Item]) -> dict[str, DocumentInput]:
    return {item.document.id: item.document for item in items if isinstance(item, ReadDocument)}


def _remarks(items: Iterator[Item]) -> list[tuple[Verdict, str, str]]:
    return [(item.verdict, item.subject, item.message) for item in items if isinstance(item, Remark)]


def test_a_folder_gives_its_files_in_order_without_hidden_ones_and_links_to_folders(folder: Path) -> None:
    """Names are relative to the current directory, sorted, and no loop is walked."""
    for name in ("docs/b.md", "docs/a.md", "docs/sub/c.txt", "docs/.git/x", "docs/.hidden", "docs/__pycache__/y.py"):
        _write(folder / name)
    (folder / "docs/loop").symlink_to(folder / "docs")

    assert _names(Walk([Path("docs")])) == ["docs/a.md", "docs/b.md", "docs/sub/c.txt"]


def test_a_file_has_the_same_name_alone_and_in_its_folder(folder: Path) -> None:
    """So that writing one file again replaces the document that its folder gave."""
    _write(folder / "docs/sub/a.md")

    assert _names(Walk([Path("docs")])) == _names(Walk([Path("docs/sub/../sub/a.md")])) == ["docs/sub/a.md"]


def test_files_elsewhere_are_named_from_the_folder_that_holds_the_path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A path outside the current directory keeps its last part."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "library"
    _write(elsewhere / "a.md")

    assert _names(Walk([elsewhere])) == ["library/a.md"]
    assert _names(Walk([elsewhere], base=elsewhere)) == ["a.md"]


def test_globs_choose_files_of_folders_and_never_drop_a_file_that_was_named(folder: Path) -> None:
    """A file on the command line is wanted whatever the pattern says."""
    _write(folder / "docs/a.md")
    _write(folder / "docs/b.txt")

    assert _names(Walk([Path("docs")], ["*.md"])) == ["docs/a.md"]
    assert _names(Walk([Path("docs/b.txt")], ["*.md"])) == ["docs/b.txt"]


def test_what_is_not_there_is_said_and_the_rest_goes_on(folder: Path) -> None:
    """A missing path is a failure beside the files of the others."""
    _write(folder / "a.md")

    found = list(Walk([Path("missing"), Path("a.md")]))

    assert [Remark(Verdict.FAILED, "missing", "there is no such file or folder"), SourceFile(Path("a.md"), "a.md")] == found
    assert Walk([Path("missing"), Path("a.md")]).count() == 1


def test_a_path_that_cannot_even_be_looked_at_is_said_and_the_rest_goes_on(folder: Path) -> None:
    """The system refuses to look: here for a name that is too long, for others in a folder that they may not enter."""
    _write(folder / "a.md")
    long = "x" * 300

    found = list(Walk([Path(long), Path("a.md")]))

    assert [Remark(Verdict.FAILED, long, "File name too long"), SourceFile(Path("a.md"), "a.md")] == found


def test_text_files_have_title_and_metadata(folder: Path) -> None:
    """The title is the first heading of Markdown, else the file's name; what the user adds wins."""
    os.utime(_write(folder / "a.md", "# The title\n\nText"), (0, 0))
    _write(folder / "b.py", "# not a title\n")

    found = _documents(Reader({"team": "x", "kind": "mine"}).read(Walk([Path("a.md")])))
    other = _documents(Reader({}).read(Walk([Path("b.py")])))

    expected = DocumentInput(
        DocumentId("a.md"),
        "The title",
        "# The title\n\nText",
        {"path": "a.md", "modified": "1970-01-01T00:00:00+00:00", "kind": "mine", "team": "x"},
    )
    assert expected == found["a.md"]
    assert (other["b.py"].title, other["b.py"].metadata["kind"]) == ("b.py", "py")


def test_files_that_cannot_be_documents_are_said_and_the_rest_goes_on(folder: Path) -> None:
    """Binary, empty, too long, unreadable and guessed files each have their line."""
    _write(folder / "binary", b"\0\1")
    _write(folder / "empty.txt", " \n")
    _write(folder / "guessed.txt", "é".encode("latin-1"))
    _write(folder / "huge.txt", "x" * 2_000_001)
    _write(folder / "damaged.txt", b"\xff\xfe\x00\xd8")  # UTF-16 that ends within a pair
    os.mkfifo(folder / "pipe")
    (folder / "broken").symlink_to("nowhere")
    _write(folder / "z.txt", "good")
    items = list(Reader({}).read(Walk([Path()])))

    remarks = {subject: (verdict, message) for verdict, subject, message in _remarks(iter(items))}

    assert {"guessed.txt", "z.txt"} == set(_documents(iter(items)))
    assert remarks.pop("damaged.txt")[0] is Verdict.FAILED
    assert remarks == {
        "binary": (Verdict.SKIPPED, "is binary"),
        "empty.txt": (Verdict.EMPTY, "is empty"),
        "guessed.txt": (Verdict.NOTE, "is not UTF-8; read as latin-1"),
        "huge.txt": (Verdict.FAILED, "has 2,000,001 characters, more than 2,000,000: split it"),
        "pipe": (Verdict.SKIPPED, "is not a regular file"),
        "broken": (Verdict.SKIPPED, "is not a regular file"),
    }
    assert sum(isinstance(item, FileEnd) for item in items) == 8


def test_html_is_converted_with_its_title(folder: Path) -> None:
    """The <title> of a page is the document's, its text is Markdown."""
    pytest.importorskip("markitdown", reason="the extra `convert` is not installed")
    _write(folder / "a.html", "<html><head><title>Page</title></head><body><h1>Head</h1><p>Text <b>bold</b></p></body></html>")

    document = _documents(Reader({}).read(Walk([Path("a.html")])))["a.html"]

    assert (document.title, document.text.strip()) == ("Page", "# Head\n\nText **bold**")


def test_a_damaged_pdf_fails_on_one_line(folder: Path) -> None:
    """Whatever a third party's parser trips over is one remark."""
    pytest.importorskip("pdfminer", reason="the extra `convert` is not installed")
    _write(folder / "a.pdf", "%PDF-1.4 junk")

    ((verdict, subject, message),) = _remarks(Reader({}).read(Walk([Path("a.pdf")])))

    assert (verdict, subject) == (Verdict.FAILED, "a.pdf")
    assert message.startswith("could not be read as PDF: ")
    assert "\n" not in message


def test_a_missing_converter_is_explained_once_a_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file of a kind says how to install the converter, the others refer to it."""
    monkeypatch.setitem(__import__("sys").modules, "markitdown", None)  # what the import system takes for "not there"
    for name in ("a.pdf", "b.pdf", "c.docx"):
        _write(folder / name)

    messages = [message for _, _, message in _remarks(Reader({}).read(Walk([Path()])))]

    assert messages == [
        "reading .pdf files needs a converter: pip install 'markitdown[pdf]'",
        "no converter for .pdf files, as said above",
        "reading .docx files needs a converter: pip install 'markitdown[docx]'",
    ]


def test_json_lines_are_documents_with_their_own_metadata(folder: Path) -> None:
    """Ids may be whole numbers or stand under `_id`; added metadata gives way; blank lines are passed over."""
    lines = [
        {"id": "a", "title": "A", "text": "one", "metadata": {"year": 2020, "tags": ["x", "y"], "team": "own"}},
        {"_id": 7, "text": "two", "ignored": True},
    ]
    _write(folder / "c.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, lines)))

    found = _documents(Reader({"team": "x"}).read(Walk([Path("c.jsonl")])))

    assert found == {
        "a": DocumentInput(DocumentId("a"), "A", "one", {"team": "own", "year": 2020, "tags": ("x", "y")}),
        "7": DocumentInput(DocumentId("7"), "", "two", {"team": "x"}),
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{bad", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"text": "x"}', "has no `id`"),
        (b'{"id": true, "text": "x"}', "has no `id`"),
        (b'{"id": "a", "text": " "}', "has no `text`"),
        (b'{"id": "a", "text": "x", "title": 3}', "`title` is not text"),
        (b'{"id": "a", "text": "x", "metadata": [1]}', "`metadata` is not an object"),
        (b'{"id": "a", "text": "x", "metadata": {"f": null}}', "metadata `f`"),
        (b'{"id": "a", "text": "x", "metadata": {"f": [{"g": 1}]}}', "metadata `f`"),
        (b'{"id": "a", "text": "' + b"x" * 17_000_000 + b'"}', "longer than 16 MB"),
    ],
)
def test_a_bad_line_fails_alone(folder: Path, line: bytes, problem: str) -> None:
    """The line is named by its number and the next one is read."""
    _write(folder / "c.jsonl", line + b'\n{"id": "good", "text": "x"}\n')
    items = list(Reader({}).read(Walk([Path("c.jsonl")])))

    ((verdict, subject, message),) = _remarks(iter(items))

    assert (verdict, subject) == (Verdict.FAILED, "c.jsonl:1")
    assert problem in message
    assert list(_documents(iter(items))) == ["good"]


def test_batches_are_bounded_in_documents_and_in_bytes() -> None:
    """A batch never holds more documents than asked for, nor much more than 4 MB of text."""

    def items() -> Iterator[Item]:
        for number, length in enumerate((1, 1, 1, 3_000_000, 3_000_000, 1)):
            yield ReadDocument(DocumentInput(DocumentId(str(number)), "", "x" * length, {}), str(number))
            yield FileEnd(str(number))

    found = [([read.document.id for read in batch.documents], batch.files) for batch in batches(items(), 3)]

    assert found == [(["0", "1", "2"], 2), (["3", "4"], 2), (["5"], 2)]


def test_reading_is_lazy(folder: Path) -> None:
    """A file is not opened before the batches ahead of it were taken."""
    for name in ("a.txt", "b.txt"):
        _write(folder / name, "old")
    stream = batches(Reader({}).read(Walk([Path("a.txt"), Path("b.txt")])), 1)

    first = next(stream)
    _write(folder / "b.txt", "new")
    second = next(stream)

    assert [batch.documents[0].document.text for batch in (first, second)] == ["old", "new"]


def test_modules_are_chosen_by_name_with_all_that_is_in_them() -> None:
    """A package has its modules, a module itself alone; a name that is only the beginning of another has nothing."""
    chosen = docstrings.chosen(["json", "json.decoder", "jso"])

    assert {"__init__.py", "decoder.py", "encoder.py"} <= {path.name for path in chosen["json"]}
    assert [path.name for path in chosen["json.decoder"]] == ["decoder.py"]
    assert chosen["jso"] == []


def test_docstrings_of_the_standard_library_are_documents_under_their_dotted_names() -> None:
    """Modules, classes and methods have a document each; tests of the library have none."""
    paths = {path.name: path for path in docstrings.modules() if path.parent.name == "json"}
    found = {document.id: document for document in docstrings.documents(paths["decoder.py"])}

    decoder = found[DocumentId("json.decoder.JSONDecoder")]
    assert decoder.text.startswith("Simple JSON <https://json.org> decoder")
    assert (decoder.metadata["module"], decoder.metadata["kind"]) == ("json.decoder", "class")
    assert found[DocumentId("json.decoder.JSONDecoder.decode")].metadata["kind"] == "function"
    assert found[DocumentId("json.decoder")].metadata["line"] == 1
    assert not any("test" in path.parts for path in docstrings.modules())
