"""What a registry lists, tags and repositories: in pages, each asked for with the mark (ETag) of the last time, where
the registry gives one. A list ends, whatever a registry says."""

import json
from collections.abc import Iterator
from dataclasses import replace

from publisher.registry.errand import Errand
from publisher.registry.host import Host, Query
from publisher.registry.pages import Known, Page
from publisher.registry.wire import finish

PAGE = "?n=1000"
"""Names that are asked for at a time."""
_PAGE_LIMIT = 16 << 20
_PAGES_LIMIT = 1000
_NAME_LIMIT = 256
"""Characters: all names of a list are kept in memory, and no tag or repository has more."""
NAMES_LIMIT = 100_000
"""Of one list."""
_NAME_THEM = "wish for its images by their names, in place of a pattern"


def read_list(host: Host, query: Query, key: str, known: Known) -> tuple[str, ...]:
    """All names of a list; `key` is what the registry's document calls them."""
    errand, name = Errand("registry", host.name, host.name), f"{host.name} {query.path}"
    before = {page.path: page for page in known.find_list(name)}
    pages = tuple(_walk(host, query, key, errand, before))
    if any(page.etag for page in pages) and pages != tuple(before.values()):
        known.keep_list(name, pages)
    return tuple(found for page in pages for found in page.names)


def _walk(host: Host, query: Query, key: str, errand: Errand, before: dict[str, Page]) -> Iterator[Page]:
    seen, count, what = set[str](), 0, f"list of {key} ({query.path.partition('?')[0]})"
    while query.path:
        if query.path in seen:
            raise errand.garbage(f"a {what} that leads from page to page for ever")
        seen.add(query.path)
        page = _page(host, query, key, errand, before.get(query.path), what)
        yield page
        count += len(page.names)
        if count > NAMES_LIMIT or len(seen) > _PAGES_LIMIT:
            raise errand.garbage(f"a {what} of more than {NAMES_LIMIT} names or {_PAGES_LIMIT} pages", _NAME_THEM)
        query = Query(page.following, query.repository, query.scope)


def _page(host: Host, query: Query, key: str, errand: Errand, before: Page | None, what: str) -> Page:
    mark = {"If-None-Match": before.etag} if before and before.etag else {}
    response = host.ask(errand, query, {"Accept": "application/json", **mark})
    if response.status_code == 304 and before:
        finish(response)
        return before
    if response.status_code == 400 and query.path.endswith(PAGE):  # it gives fewer at a time, and does not say how many
        finish(response)
        return _page(host, replace(query, path=query.path.removesuffix(PAGE)), key, errand, before, what)
    if response.status_code != 200:
        finish(response)
        raise errand.unlisted(response.status_code, response.reason, what)
    names = _names(host.read(errand, response, _PAGE_LIMIT, what), key)
    if names is None:
        kind = response.headers.get("Content-Type", "no type")[:100]
        raise errand.garbage(f"a {what} that is none ({kind})")
    link = response.links.get("next", {}).get("url", "")
    path = link.partition("/v2/")[2]  # on the same registry, whatever host it calls itself
    if link and not path:
        raise errand.garbage(f"a {what} whose next page is not below /v2/")
    return Page(query.path, response.headers.get("ETag", ""), names, path)


def _names(content: bytes, key: str) -> tuple[str, ...] | None:
    try:
        names = json.loads(content)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    names = [] if names is None else names  # as some registries say of an empty list
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= _NAME_LIMIT for name in names):
        return None
    return tuple(names)
