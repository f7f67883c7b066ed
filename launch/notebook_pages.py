"""Notebooks as pages of the site: what mkdocs.yml names under `hooks`.

A notebook becomes Markdown with the outputs that are stored in it, so that its links
are checked as those of other pages are, and it looks as they do. mkdocs-jupyter would
put 0.6 MB of styles into each page, fetch scripts from elsewhere, and leave links to
pages as they stand.
"""

import posixpath

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


class Notebook(File):
    """A page whose source is a notebook: links lead to `NAME.ipynb`, as in a clone."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config) -> Files:
    """Puts a page, its pictures and a copy to download in place of each notebook."""
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        folder, name = posixpath.split(file.src_uri)
        copy, pictures = f"source/{name}", {"output_files_dir": f"source/{file.name}"}
        text, resources = MarkdownExporter().from_filename(file.abs_src_path, pictures)
        text += f"\n[This page as a notebook]({copy})\n"
        files.remove(file)
        files.append(Notebook.generated(config, file.src_uri, content=text))
        for place, content in {
            copy: file.content_bytes,
            **resources["outputs"],
        }.items():
            uri = posixpath.join(folder, place)
            files.append(File.generated(config, uri, content=content))
    return files
