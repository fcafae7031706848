"""The page as a script sees it: who may come in, what is refused, and what a page says and does not say."""

import itertools
import json

import pytest
from ranking_server import item  # type: ignore[import-not-found]
from starlette.testclient import TestClient

from ventaja.errors import ConfigError
from ventaja.rankings import Order, Plan, Store
from ventaja.web.ranking import ranking_app
from ventaja.web.safety import HEADERS, MOST_BYTES, local_site
from ventaja.web.serving import shared_site

SITE = local_site(8765)
ORIGIN = {"Origin": SITE.url}
keys = (f"key-{n:08}" for n in itertools.count())


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "r.db") as store:
        store.add([item("p"), item("q")])
        yield store


@pytest.fixture
def open_page(store):
    """`open_page(name)`: a browser of this rater's, that has come in by their link."""

    def make(name=None, plan=Plan(way="given", raters_per_item=2)):  # noqa: B008
        app = ranking_app(store, plan, [store.rater("ana"), store.rater("ben")], SITE)
        client = TestClient(app, base_url=SITE.url, raise_server_exceptions=False)
        if name is not None:
            secret = store.organiser() if name == "organiser" else store.rater(name).secret
            answer = client.post("/enter", json={"secret": secret}, headers=ORIGIN)
            assert answer.status_code == 200, answer.text
        return client

    return make


def judge(client, showing, **body):
    body = {"key": next(keys), "seen": 0, "tiers": [[0], [1, 2], [3]], "line": 1, **body}
    return client.post(f"/item/{showing}/judge", json=body, headers=ORIGIN)


def test_a_link_opens_the_page_once_and_the_cookie_after(open_page, store):
    client = open_page()
    assert client.get("/").status_code == 200
    assert client.get("/rank").status_code == 403
    assert client.post("/enter", json={"secret": "guessed"}, headers=ORIGIN).status_code == 403
    answer = client.post("/enter", json={"secret": store.rater("ana").secret}, headers=ORIGIN)
    assert answer.json() == {"next": "/rank"}
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "ventaja-8765=" in cookie
    assert "Which is best, p?" in client.get("/rank").text


def test_a_script_sends_its_secret_in_a_header(open_page, store):
    client = open_page()
    mine = {"Authorization": f"Bearer {store.rater('ana').secret}"}
    showing = client.get("/rank.json", headers=mine).json()["showing"]
    body = {"key": "12345678", "seen": 0, "tiers": [[0], [1]], "line": None}
    assert client.post(f"/item/{showing}/judge", json=body, headers=mine).json() == {
        "saved": True,
        "version": 1,
    }
    assert client.get("/rank.json", headers={"Authorization": "Bearer x"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": SITE.url, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": SITE.url, "Host": "evil.example:8765"}, 421),
        ({"Origin": SITE.url, "Host": "127.0.0.1"}, 421),
        ({"Origin": SITE.url, "Content-Type": "text/plain"}, 415),
        ({"Origin": SITE.url, "Content-Length": "99999999"}, 413),
    ],
)
def test_other_pages_and_names_are_refused(open_page, store, headers, status):
    client = open_page("ana")
    showing = client.get("/rank.json").json()["showing"]
    body = json.dumps({"key": next(keys), "seen": 0, "tiers": [[0]], "line": None})
    headers = {"Content-Type": "application/json", **headers}
    answer = client.post(f"/item/{showing}/judge", content=body, headers=headers)
    assert answer.status_code == status
    assert store.rankings() == []
    assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_a_body_without_a_length_is_bounded_too(open_page):
    client = open_page("ana")
    chunks = (b"x" * 65536 for _ in range(MOST_BYTES // 65536 + 2))
    answer = client.post("/enter", content=chunks, headers={**ORIGIN, "Content-Type": "application/json"})
    assert answer.status_code == 413


def test_everything_has_the_headers(open_page):
    client = open_page("ana")
    for path in ("/", "/rank", "/rank.json", "/earlier", "/agreement", "/nowhere", "/static/style.css"):
        answer = client.get(path)
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert answer.headers[name] == value, path
    assert client.get("/rank").headers["cache-control"] == "no-store"
    assert client.put("/rank").status_code == 405


def test_nothing_says_whose_an_answer_is(open_page):
    client = open_page("ana")
    for path in ("/rank", "/rank.json", "/item/1", "/item/1.json"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "secret-model" not in answer.text + str(answer.headers)


def test_a_ranking_on_the_page_is_one_of_the_item(open_page, store):
    client = open_page("ana")
    page = client.get("/rank.json").json()
    texts = page["answers"]
    assert judge(client, page["showing"], tiers=[[2], [0, 3]], line=1).json() == {"saved": True, "version": 1}
    [ranking] = store.rankings()
    assert [{ranking.answers[i].text for i in tier} for tier in ranking.order] == [
        {texts[2]},
        {texts[0], texts[3]},
    ]
    assert ranking.line == 1
    again = client.get(f"/item/{page['showing']}.json").json()
    assert again["answers"] == texts
    assert [sorted(tier) for tier in again["ranking"]["tiers"]] == [[2], [0, 3]]
    assert again["version"] == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"tiers": [[0], [0]]}, 422, "twice"),
        ({"tiers": [[4]]}, 422, "not on the page; it has 4"),
        ({"tiers": [[-1]]}, 422, "tiers.0.0"),
        ({"tiers": [[]]}, 422, "tiers.0"),
        ({"tiers": [], "line": None}, 422, "the order is empty"),
        ({"line": 9}, 422, "'line' is 9"),
        ({"key": "short"}, 422, "key"),
        ({"more": 1}, 422, "more"),
        ({"seconds": "long"}, 422, "seconds"),
        ({"seen": 1}, 409, "this page shows 1"),
        ({"tiers": [[True]]}, 422, "tiers.0.0"),
    ],
)
def test_what_is_not_kept_says_why(open_page, store, body, status, says):
    client = open_page("ana")
    answer = judge(client, client.get("/rank.json").json()["showing"], **body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert store.rankings() == []


def test_nobody_sees_or_judges_what_is_anothers(open_page, store):
    ana, ben = open_page("ana"), open_page("ben")
    showing = ana.get("/rank.json").json()["showing"]
    assert ben.get(f"/item/{showing}").status_code == 404
    assert judge(ben, showing).status_code == 404
    assert ben.post(f"/item/{showing}/flag", json={"comment": "x"}, headers=ORIGIN).status_code == 404
    assert store.rankings() == []


def test_raters_do_not_see_agreement_and_the_organiser_does(open_page, store):
    ana, ben, organiser = open_page("ana"), open_page("ben"), open_page("organiser")
    assert ana.get("/agreement").status_code == 403
    assert organiser.get("/rank", follow_redirects=False).headers["location"] == "/agreement"
    assert organiser.get("/rank.json").status_code == 403
    assert "Nobody has ranked anything yet" in organiser.get("/agreement").text
    for client in (ana, ben):
        # the same order of the item's own answers, whatever order they stand in
        page = client.get("/rank.json").json()
        best = sorted(range(4), key=lambda i: page["answers"][i])
        judge(client, page["showing"], tiers=[[i] for i in best])
    data = organiser.get("/agreement.json").json()
    assert (data["alpha"], data["pairs"], data["line"], data["compared"]) == (1, 1, 1, 1)
    text = organiser.get("/agreement").text
    assert "1.00" in text
    assert "2 items; 2 rankings, 0 skipped, 0 flagged. 1 items have two rankings or more." in text


def test_drafts_flags_skips_and_what_was_earlier(open_page, store):
    client = open_page("ana")
    showing = client.get("/rank.json").json()["showing"]
    step = {"seen": 0, "tiers": [[1]], "line": None}
    assert client.post(f"/item/{showing}/draft", json=step, headers=ORIGIN).json() == {"saved": True}
    flag = {"comment": "<b>odd</b>"}
    assert client.post(f"/item/{showing}/flag", json=flag, headers=ORIGIN).json() == {"saved": True}
    page = client.get("/rank.json").json()
    assert page["draft"] == {"tiers": [[1]], "line": None}
    assert page["comment"] == "<b>odd</b>"
    assert judge(client, showing, tiers=None, line=None).status_code == 200
    [row] = client.get("/earlier.json").json()["judged"]
    assert (row["state"], row["id"]) == ("skipped", showing)
    assert "&lt;b&gt;odd&lt;/b&gt;" in client.get("/earlier").text
    judge(client, client.get("/rank.json").json()["showing"])
    assert client.get("/rank.json").json()["showing"] is None
    assert "Nothing left to rank" in client.get("/rank").text
    assert len(client.get("/earlier.json").json()["judged"]) == 2


def test_a_broken_store_is_told_to_who_waits(open_page, store, monkeypatch):
    client = open_page("ana")
    showing = client.get("/rank.json").json()["showing"]
    monkeypatch.setattr(store, "judge", lambda *_: 1 / 0)
    answer = judge(client, showing)
    assert answer.status_code == 500
    assert "the terminal says what" in answer.json()["error"]
    assert answer.headers["x-frame-options"] == "DENY"


def test_text_in_any_script(tmp_path):
    texts = ("مرحبا 🙂", "x" * 10_000, "'\"><script>", "</div>{{ 7 * 7 }}")
    with Store(tmp_path / "other.db") as store:
        store.add([item("r", *texts)])
        app = ranking_app(store, Plan(), [store.rater("ana")], SITE)
        client = TestClient(
            app, base_url=SITE.url, headers={"Authorization": f"Bearer {store.rater('ana').secret}"}
        )
        assert sorted(client.get("/rank.json").json()["answers"]) == sorted(texts)
        page = client.get("/rank").text
        assert "مرحبا 🙂" in page
        assert "x" * 10_000 in page
        assert "<script>" not in page.replace('<script type="module"', "")
        assert "{{ 7 * 7 }}" in page


def test_where_a_page_can_be_shared():
    site = shared_site("192.168.1.20", "box.local", 8443)
    assert site.hosts == {"192.168.1.20:8443", "box.local:8443"}
    assert site.origins == {"https://192.168.1.20:8443", "https://box.local:8443"}
    assert shared_site("fe80::1", None, 443).url == "https://[fe80::1]"
    for address in ("0.0.0.0", "::", "box.local"):
        with pytest.raises(ConfigError, match="share.address"):
            shared_site(address, None, 8443)


def test_renewed_links_close_the_old_ones(open_page, store):
    client = open_page("ana")
    old = store.rater("ana").secret
    store.renew_links()
    assert store.rater("ana").secret != old
    fresh = open_page()
    assert fresh.get("/rank", headers={"Authorization": f"Bearer {old}"}).status_code == 403
    assert client.cookies


def test_order_is_empty_only_with_a_line(open_page, store):
    client = open_page("ana")
    assert judge(client, client.get("/rank.json").json()["showing"], tiers=[], line=0).status_code == 200
    assert (store.rankings()[0].order, store.rankings()[0].line) == ((), 0)
    assert store.showing(1, store.rater("ana").id).order == Order(tiers=(), line=0)


def test_numbers_that_no_database_has(open_page):
    client = open_page("ana")
    client.get("/rank")
    assert client.get(f"/item/{10**30}").status_code == 404
    assert client.get(f"/earlier?before={10**30}").status_code == 200
    for step in (
        {"tiers": [[0]], "line": 10**30},
        {"tiers": [[10**30]], "line": None},
        {"tiers": [[0], [0]], "line": 0},
    ):
        answer = client.post("/item/1/draft", json={"seen": 0, **step}, headers=ORIGIN)
        assert answer.status_code == 422, answer.text


def test_every_look_is_an_event(open_page, store):
    client = open_page("ana")
    for path in ("/rank", "/rank", "/item/1"):
        client.get(path)
    with store.reading() as db:
        assert [row["kind"] for row in db.execute("SELECT kind FROM event")] == ["shown"] * 3
