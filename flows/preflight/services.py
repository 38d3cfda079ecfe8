"""The MLflow and Prefect servers that the environment names: whether they answer, and take the credentials they are given."""

import base64
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request

from flows.servers.answers import opener_for
from tasks.about.finding import Finding, one_line
from tasks.runner.tracking import enabled

SECONDS = 5.0
REFUSED = (401, 403)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def basic(user_and_password: str) -> str:
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def trouble_at(url: str, authorization: str) -> str | None:
    """Why a GET of this URL fails; None when it is answered with success."""
    headers = {"Authorization": authorization} if authorization else {}
    try:
        opener_for(url).open(Request(url, headers=headers), timeout=SECONDS).close()
    except HTTPError as error:
        if error.code in REFUSED:
            return f"refuses {'these' if authorization else 'a request without'} credentials ({error.code})"
        return f"answers {error.code} to {urlsplit(url).path}"
    except (URLError, OSError, ValueError) as error:
        return f"does not answer: {one_line(getattr(error, 'reason', error))}"
    return None


def check_proxies() -> Iterator[Finding]:
    """Proxies that Prefect's client cannot take: it raises an error even where it would not use them."""
    named = {name: text for name, text in os.environ.items() if name.lower() in PROXIES and text}
    if not named:
        return
    import httpx

    for name, text in named.items():
        try:
            httpx.Proxy(text if "://" in text else f"http://{text}")
        except (ValueError, httpx.InvalidURL) as error:
            yield Finding(
                f"{name}={without_password(text)}",
                f"is no proxy that Prefect's client can use: {one_line(error)}",
                f"use http, https, socks5 or socks5h, or `unset {name}`",
            )


def check_mlflow() -> Iterator[Finding]:
    """MLFLOW_TRACKING_URI: a server, or the file of a SQLite store, which may be made by the run. Other databases are
    connected to."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri or not enabled():
        return
    where, off = f"MLFLOW_TRACKING_URI={without_password(uri)}", "or set TOKENMILL_TRACKING=off"
    kind = urlsplit(uri).scheme
    if kind in ("http", "https"):
        user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
        secret = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        authorization = basic(secret) if user else f"Bearer {token}" if token else ""
        if trouble := trouble_at(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1", authorization):
            remedy = (
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                if "credentials" in trouble
                else "start it (`make ui`)"
            )
            yield Finding(where, trouble, f"{remedy}, {off}")
    elif kind == "sqlite":
        path = Path(uri.removeprefix("sqlite:///"))
        try:
            if path.exists():
                sqlite3.connect(f"file:{path}?mode=rw", uri=True).execute("pragma schema_version")
            elif not path.parent.is_dir():
                yield Finding(where, f"there is no folder {path.parent}", f"make it, {off}")
        except sqlite3.Error as error:
            yield Finding(where, f"cannot be used: {error}", f"name another file, {off}")
    elif kind.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        if trouble := database_trouble(uri):
            yield Finding(where, trouble, f"start it, {off}")
    else:
        yield Finding(
            where,
            "no server and no database: MLflow 3 refuses a store of files",
            f"use sqlite:///path/mlflow.db, {off}",
        )


def database_trouble(uri: str) -> str | None:
    """Why no connection can be made; None when one can."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        return f"cannot be connected to: {one_line(error)}"
    return None


def check_prefect() -> Iterator[Finding]:
    """PREFECT_API_URL, asked for what needs credentials where the server has any."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    secret, key = os.environ.get("PREFECT_API_AUTH_STRING"), os.environ.get("PREFECT_API_KEY")
    authorization = basic(secret) if secret else f"Bearer {key}" if key else ""
    if trouble := trouble_at(f"{url.rstrip('/')}/admin/version", authorization):
        remedy = (
            "set PREFECT_API_AUTH_STRING=admin:<the password that `make ui` printed>"
            if "credentials" in trouble
            else "start it (`make ui`), or unset PREFECT_API_URL"
        )
        yield Finding(f"PREFECT_API_URL={without_password(url)}", trouble, remedy)


def without_password(uri: str) -> str:
    """The URI as it may be printed."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri
