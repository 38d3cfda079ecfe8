"""What we add to the pages of the Prefect UI, of which each project has a copy of its own."""

# Rows of tabs wrap, paths in tables break, and what Prefect says of a field that is left as it is is not shown.
STYLE = (
    "[role=tablist]{flex-wrap:wrap;height:auto}td{overflow-wrap:anywhere}td:first-child:not(:has(code)){overflow-wrap:normal}"
    "[role=tabpanel] fieldset>p.text-subdued{display:none}"
)
# As Prefect's own client does; from 0.2 s, doubling, 13 s in all. Two of six forms met a locked database while a script asked
# the server ten times a second.
ASK_AGAIN = """
const ask = window.fetch;
window.fetch = async (what, how) => {
  for (let wait = 200; ; wait *= 2) {
    const answer = await ask(what instanceof Request ? what.clone() : what, how);
    if (answer.status !== 503 || wait > 6400) return answer;
    await new Promise((done) => setTimeout(done, wait));
  }
};
"""


def adapt_page(page: str, host: str) -> str:
    """A page of the Prefect UI that lets the browser talk to this host and to localhost only, that can be read on a narrow
    screen, and that asks again when the server says 503.

    The UIs of Prefect 3.8 load an analytics service even with PREFECT_SERVER_ANALYTICS_ENABLED=false, which keeps only
    the server quiet. Their rows of tabs, which is what a form's choice of methods is, run out of a narrow page. They drop a
    request without a word when the SQLite database was locked at that instant, which the server answers by 503.
    """
    places = " ".join(f"{scheme}://{name}:*" for scheme in ("http", "ws") for name in (host, "localhost"))
    policy = f"""<meta http-equiv="Content-Security-Policy" content="connect-src 'self' {places}">"""
    added = f"{policy}<style>{STYLE}</style><script>{ASK_AGAIN}</script>"
    return page if added in page else page.replace("<head>", f"<head>{added}", 1)
