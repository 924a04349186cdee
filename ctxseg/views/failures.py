"""A self-contained HTML page on where one run fails, with pictures. It is written from the files of the run alone."""

from etils import epath

from ctxseg import program
from ctxseg.errors import UserError
from ctxseg.files import write_text
from ctxseg.runs import record
from ctxseg.views import instance_failures, page, report, reported_run, semantic_failures

# The sections of each task.
VIEWS = {record.SEMANTIC: semantic_failures, record.INSTANCES: instance_failures}


def write_failures(folder) -> epath.Path:
    """Writes failures.html from config.json, results.json, images.npz and samples.npz of a run into its folder.

    The page says which parts an older version of ctxseg did not store.

    Args:
        folder: folder of the run.

    Returns:
        The path of the page.

    Raises:
        UserError: a missing folder or one without a run, a run that was not evaluated, a damaged file, or the page cannot be written.
    """
    folder = epath.Path(folder)
    run = reported_run.read(folder, 0, 1, None)
    if not run.results:
        raise UserError(
            f"{folder / 'results.json'} is missing: evaluate the run first: {program.NAME} --mode=evaluate --workdir={folder}"
        )
    view = VIEWS[run.task]
    title = f"{run.name} on {run.config['data']['name']}: where it fails"
    path = folder / report.FAILURES
    content = page.render(
        "failures.html",
        title=title,
        headline=report.headline(run),
        report="report.html" if (folder / "report.html").exists() else None,
        contents=view.CONTENTS,
        sections=view.TEMPLATE,
        **view.sections(run),
    )
    try:
        write_text(path, content)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return path
