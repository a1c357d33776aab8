"""What the site of docs/ adds to the files: README.md as its first page, and links where a page names another one."""
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMED = re.compile(r"(?<![\w/`\[(\"])docs/([A-Z-]+\.md)(?![\w`\])#])")


def on_files(files, config):
    readme = (ROOT / "README.md").read_text()
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown, page, config, files):
    """`docs/X.md` in a text becomes a link to that page; blocks of code stay as they are."""
    def linked(m):
        return f"[docs/{m[1]}]({m[1]})" if files.get_file_from_path(m[1]) else m[0]

    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", markdown, flags=re.M | re.S)
    return "".join(p if i % 2 else NAMED.sub(linked, p) for i, p in enumerate(parts))
