"""Templates, each with its `.json` twin, and the files beside them. All text is escaped unless `rendered` made it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from ventaja.web.markdown import rendered

TEMPLATES = Environment(
    loader=PackageLoader("ventaja.web"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["rendered"] = rendered


class _Files(StaticFiles):
    """Files that a browser keeps, and asks whether they have changed."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def static_files() -> Mount:
    """The styles and scripts of the package, under /static."""
    return Mount("/static", _Files(directory=str(files("ventaja.web") / "static")))


def page(request: Request, template: str, values: dict[str, Any], *, status: int = 200) -> Response:
    """The template with these values or, at an address that ends in `.json`, what of `values` is plain: its `data`."""
    if request.url.path.endswith(".json"):
        return JSONResponse(values["data"], status)
    return HTMLResponse(TEMPLATES.get_template(template).render(**values), status)


def refused(request: Request, error: Exception) -> Response:
    """An error for whoever asked: words for a person, an object for a script."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    why = (
        str(error.detail)
        if isinstance(error, HTTPException)
        else "Something broke here; the terminal says what."
    )
    if request.method == "POST" or request.url.path.endswith(".json"):
        return JSONResponse({"error": why}, status)
    return HTMLResponse(TEMPLATES.get_template("error.html").render(why=why, title="Error"), status)
